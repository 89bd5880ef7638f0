"""eDIF: a deep inference fabric that a university or HPC centre runs itself.

Importing this package loads nothing heavy; the parts are named in ``docs/architecture.md``. For programs there are
``edif.connect``, ``edif.batch``, ``edif.jobs`` and ``edif.job``, which load the client when they are first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_OF_THE_CLIENT = frozenset(
    {"Batch", "Connection", "Cost", "Job", "VersionsDiffer", "batch", "connect", "job", "jobs"}
)


def __getattr__(name: str) -> Any:
    if name in _OF_THE_CLIENT:
        try:
            client = import_module("edif.client")
        except ModuleNotFoundError as error:
            raise ImportError(
                f"edif.{name} needs nnsight ({error}). Run: pip install 'nnsight==0.8.1'", name=error.name
            ) from error
        return getattr(client, name)
    raise AttributeError(f"module 'edif' has no attribute {name!r}")
