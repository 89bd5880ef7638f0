"""``edif replay``: whether the scheduler still decides as a decision log says that it did."""

from pathlib import Path
from typing import Annotated

import typer

from edif.cli.options import AsJson, Config, Data
from edif.cli.output import say, show_json
from edif.core import errors
from edif.core.errors import EdifError
from edif.scheduler.journal import JournalError
from edif.scheduler.journal import replay as play
from edif.settings import load


def replay(
    file: Annotated[
        Path | None, typer.Argument(help="The file, else the one that the setting `decision_log` names.")
    ] = None,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Play a decision log into a fresh scheduler: does it decide the same, and if not, where does it first differ?"""
    file = file or load(config, data=data).decision_log
    if file is None:
        raise EdifError(errors.JOURNAL_UNREADABLE, "No file is named, and no `decision_log` is set.")
    try:
        with file.open("rb") as lines:
            found = play(lines)
    except OSError as error:
        raise EdifError(
            errors.JOURNAL_UNREADABLE, f"{str(file)!r} cannot be read: {error.strerror}."
        ) from error
    except JournalError as error:
        raise EdifError(errors.JOURNAL_UNREADABLE, f"{str(file)!r} is no decision log: {error}") from error
    if found.difference is not None:
        raise EdifError(errors.DECISIONS_DIFFER, found.difference)
    if as_json:
        show_json({"parts": found.parts, "steps": found.steps})
    else:
        say(f"The scheduler decides the same: {found.steps} event(s), {found.parts} start(s) of a gateway.")
