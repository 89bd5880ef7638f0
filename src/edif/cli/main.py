"""The ``edif`` command. Each command is thin: it reads options, calls one thing, and prints."""

import sys
from typing import Annotated

import typer

from edif import __version__
from edif.cli import people, running, steering
from edif.cli.audit import audit
from edif.cli.doctor import doctor
from edif.cli.groups import groups
from edif.cli.keeping import backup, restore
from edif.cli.output import complain
from edif.cli.privacy import users_erase, users_export
from edif.cli.quota import quota
from edif.cli.replay import replay
from edif.cli.retention import retention
from edif.cli.usage import usage
from edif.core import errors
from edif.core.errors import EdifError

app = typer.Typer(
    name="edif",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A deep inference fabric: nnsight traces on hosted language models.",
)
app.command()(running.serve)
app.command()(running.gateway)
app.command()(running.agent)
app.command()(steering.status)
app.command()(steering.drain)
app.command()(steering.resume)
app.command()(doctor)
app.command()(usage)
app.command()(backup)
app.command()(restore)
app.command()(replay)
people.users.command("export")(users_export)
people.users.command("erase")(users_erase)
app.add_typer(people.users, name="users")
app.add_typer(people.keys, name="keys")
app.add_typer(groups, name="groups")
app.add_typer(quota, name="quota")
app.add_typer(audit, name="audit")
app.add_typer(retention, name="retention")
app.add_typer(steering.models, name="models")
app.add_typer(steering.jobs, name="jobs")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"edif {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command; an error is one line on standard error and exit code 1."""
    try:
        app()
    except EdifError as error:
        complain(error.detail)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "edif":
            raise
        complain(
            EdifError(
                errors.WORKER_DEPENDENCY, f"This command needs the package {error.name!r}, which is missing."
            ).detail
        )
        sys.exit(1)
