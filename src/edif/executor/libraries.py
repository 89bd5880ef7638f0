"""What a process needs of torch, transformers and nnsight before it can load a model."""

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager

_NEEDED = ("torch", "nnsight.modeling.transformers", "transformers.modeling_utils", "transformers.pipelines")


@contextmanager
def uncollected() -> Iterator[None]:
    """What is made meanwhile stays for good, and the collector never looks at it.

    For imports, which make hundreds of thousands of objects and leave little garbage (3 MB): to look through all of them again and again
    took a quarter of their time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_libraries() -> None:
    """Import what every model needs, much of which would otherwise come in the midst of loading."""
    with uncollected():
        for name in _NEEDED:
            importlib.import_module(name)
