"""eDIF: a deep inference fabric that a university or HPC centre runs itself.

Importing this package loads nothing heavy; the parts are named in ``docs/architecture.md``. For programs there are
``edif.connect``, ``edif.batch``, ``edif.jobs`` and ``edif.job``, which load the client when they are first used, and
``edif.keep``, which belongs into a trace.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_OF_THE_CLIENT = frozenset(
    {"Batch", "Connection", "Cost", "Job", "Kept", "VersionsDiffer", "batch", "connect", "job", "jobs"}
)
_WHERE = {**dict.fromkeys(_OF_THE_CLIENT, "edif.client"), "keep": "edif.executor.keeping"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'edif' has no attribute {name!r}")
    try:
        module = import_module(_WHERE[name])
    except ModuleNotFoundError as error:
        raise ImportError(
            f"edif.{name} needs nnsight ({error}). Run: pip install 'nnsight==0.8.1' 'transformers<5.23'",
            name=error.name,
        ) from error
    return getattr(module, name)
