"""``edif backup`` and ``edif restore``."""

from pathlib import Path
from typing import Annotated

import typer

from edif.cli.options import AsJson, Config, Data
from edif.cli.output import say, show_json
from edif.core import errors
from edif.core.errors import ErrorCode, SetupError
from edif.launch.data_folder import DataFolder
from edif.settings import load


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write, e.g. edif-2026-11-22.tar.zst.")],
    results: Annotated[bool, typer.Option(help="Whether results are in it.")] = True,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write the data folder to one file, also while a fabric runs on it. It holds secrets: keep it as safe as the folder."""
    from edif.launch.backup import take

    contents = take(_folder(config, data, errors.BACKUP_IMPOSSIBLE), file.resolve(), results=results)
    bucket = load(config, data=data).blobs
    if as_json:
        show_json(
            {"file": str(file), "jobs": contents.jobs, "blobs": contents.blobs, "blobs_elsewhere": bucket}
        )
    else:
        size = contents.size_bytes / 2**20
        say(
            f"Wrote {file}: {contents.jobs} job(s), {contents.blobs} blob(s), {size:.1f} MiB before compression."
        )
        if bucket is not None:
            say(f"Payloads and results are not in it: they lie in {bucket}, which its own keepers back up.")


def _folder(config: Path | None, data: Path | None, refusal: ErrorCode) -> DataFolder:
    """
    Raises:
        SetupError: the records are not in the folder; an old store that lies there is not this fabric's.
    """
    settings = load(config, data=data)
    if settings.record_store is not None:
        raise SetupError(
            refusal,
            "The records of this fabric are in PostgreSQL, not in the data folder.",
            "Use pg_dump and pg_restore for the records, and copy the folder blobs/ and the secrets.",
        )
    return DataFolder(settings.data.resolve())


def restore(
    file: Annotated[Path, typer.Argument(help="A file that edif backup wrote.")],
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Fill a new data folder from a backup. Jobs that were unfinished then run when the fabric starts."""
    from edif.launch.backup import restore as fill

    folder = _folder(config, data, errors.RESTORE_IMPOSSIBLE)
    contents = fill(file.resolve(), folder)
    if as_json:
        show_json({"data": str(folder.root), "jobs": contents.jobs, "blobs": contents.blobs})
    else:
        say(f"Restored {contents.jobs} job(s) and {contents.blobs} blob(s) into {folder.root}.")
