"""The client: stock nnsight code on connections that last. ``docs/client.md`` is for those who use it.

Needs nnsight in the program's own environment; whoever imports this pays for that import.
"""

import os

from edif.client.batch import Batch
from edif.client.checks import VersionsDiffer
from edif.client.connection import Connection, current
from edif.client.connection import connect as _connect
from edif.client.job import Cost, Job
from edif.client.kept import Kept
from edif.core import errors
from edif.core.errors import SetupError

__all__ = ["Batch", "Connection", "Cost", "Job", "Kept", "VersionsDiffer", "batch", "connect", "job", "jobs"]


def connect(
    url: str | None = None, key: str | None = None, *, rounding: str | None = None, merge: bool = True
) -> Connection:
    """Run every trace with ``remote=True`` on this fabric from now on, or within ``with edif.connect(...):``.

    Args:
        url: as your operator names it. By default the variable EDIF_URL, else NDIF_HOST.
        key: by default the variable EDIF_API_KEY, else NDIF_API_KEY; none on a fabric without users.
        rounding: "bfloat16", "float16" or "float32": saved tensors of wider floats travel as these, and come back in their own
            dtype with rounded values. By default every value is the fabric's own.
        merge: False has your traces share no forward pass with those of others.

    Raises:
        EdifError: there is no fabric, it does not know the key, or it runs another nnsight; the text says what to do.
    """
    url = url or _variable("EDIF_URL", "NDIF_HOST")
    if url is None:
        raise SetupError(
            errors.FABRIC_UNREACHABLE,
            "No fabric is named.",
            "Call edif.connect(url, key), or set EDIF_URL to the address your operator gave you.",
        )
    return _connect(url, key or _variable("EDIF_API_KEY", "NDIF_API_KEY"), rounding, merge=merge)


def batch() -> Batch:
    """Send all traces of a block together: ``with edif.batch():``.

    Raises:
        EdifError: the program is not connected.
    """
    current()
    return Batch()


def jobs(limit: int = 20) -> list[Job]:
    """Your newest jobs, newest first, whichever program sent them.

    Raises:
        EdifError: the program is not connected.
    """
    return current().jobs(limit)


def job(job_id: str) -> Job:
    """One of your jobs, by its id.

    Raises:
        EdifError: the program is not connected, or there is no such job of yours.
    """
    return current().job(job_id)


def _variable(*names: str) -> str | None:
    """The first of these that is set. A program has no edif.toml: this is all that a client reads of its surroundings."""
    return next((os.environ[name] for name in names if os.environ.get(name)), None)  # noqa: TID251
