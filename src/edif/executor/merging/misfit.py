"""When a job turns out to need more than a shared pass offers."""

from functools import cache
from typing import Any, NoReturn

_met: list[str] = []


def note_in(reasons: list[str]) -> None:
    """From now on each misfit is noted in this list, whatever becomes of the exception: user code may catch it."""
    global _met
    _met = reasons


class Misfit(BaseException):
    """The job has to be run again, by itself. No ``Exception``, so that user code does not catch it by accident."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        _met.append(reason)


class Elsewhere:
    """Stands for an object of the forward pass, a key-value cache say, that is not handed to jobs: to use it is a misfit."""

    def _used(self, *_: Any, **__: Any) -> NoReturn:
        raise Misfit("it uses an object that only its own forward pass has")

    __getattr__ = __reduce_ex__ = __iter__ = __len__ = __getitem__ = __call__ = __bool__ = _used
    __setitem__ = __delitem__ = __contains__ = __eq__ = __repr__ = __str__ = _used
    __setattr__ = __delattr__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __mul__ = _used
    __hash__ = _used


@cache
def _class_for(kind: type) -> type[Elsewhere]:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (Elsewhere,), {**names, "__class__": property(lambda _: kind)})


def standing_in_for(kind: type) -> Elsewhere:
    """Something that has the class of what it stands for, by name and by ``isinstance``, and else only raises."""
    return _class_for(kind)()
