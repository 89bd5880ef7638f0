"""What a fuzz target is, and inputs for it that need no fuzzer: valid messages, and damaged ones."""

import os
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from random import Random
from typing import Any

import msgspec

from edif.core.job import UsedJob


@dataclass(frozen=True, slots=True)
class Target:
    """A law that holds for any bytes.

    Attributes:
        check: raises if the law is broken; otherwise tells whether the input was accepted as something valid.
        seeds: valid inputs and close misses, the same ones at every call.
        most_bytes: the longest input that is worth trying.
    """

    check: Callable[[bytes], bool]
    seeds: Callable[[], list[bytes]]
    most_bytes: int = 4096


def open_descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - for every input, and this is five times faster


# -- valid messages ------------------------------------------------------------------------------------
def samples(kinds: Sequence[type[msgspec.Struct]], count: int = 4) -> list[msgspec.Struct]:
    """``count`` messages of each kind, each field filled from its annotation; the same ones at every call."""
    random = Random(0)
    return [_message(kind, random) for kind in kinds for _ in range(count)]


def _message(kind: type[Any], random: Random) -> Any:
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**{name: _value(hint, random) for name, hint in hints.items()})


def _value(hint: object, random: Random) -> object:
    parts = typing.get_args(hint)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return _value(random.choice(parts), random)
    if typing.get_origin(hint) is typing.Literal:
        return random.choice(parts)
    if typing.get_origin(hint) is list:
        return [_value(parts[0], random) for _ in range(random.randrange(3))]
    if typing.get_origin(hint) is dict:
        return {_value(parts[0], random): _value(parts[1], random) for _ in range(random.randrange(3))}
    if hint in _PLAIN:
        return random.choice(_PLAIN[hint])
    if typing.get_origin(hint) is typing.Annotated:
        return _bounded(parts[0], parts[1], random)
    if typing.get_origin(hint) is tuple:
        return tuple(_value(parts[0], random) for _ in range(random.randrange(3)))
    assert isinstance(hint, type)
    if issubclass(hint, Enum):
        return random.choice(list(hint))
    assert issubclass(hint, msgspec.Struct) or is_dataclass(hint), f"no values for {hint}"
    return _message(hint, random)


def _bounded(hint: object, bounds: msgspec.Meta, random: Random) -> object:
    """Numbers within their bounds; the longest texts and lists that are made here are within any."""
    if hint not in (int, float):
        return _value(hint, random)
    least, most = bounds.ge, bounds.le
    kept = [
        number
        for number in _NUMBERS[hint]
        if (least is None or number >= least) and (most is None or number <= most)
    ]
    return random.choice(kept)


_PLAIN: dict[object, list[object]] = {
    str: ["", "a", "org/name", "käse \U0001f600", "x" * 40, "y" * 300],
    int: [0, 1, -1, 200, 2**31, 2**63, -(2**63), 2**64 - 1],
    float: [0.0, -1.5, 1e300, float("inf"), float("nan")],
    bool: [True, False],
    bytes: [b"", b"\0" * 8, b"\xc1\xff", bytes(range(64))],
    types.NoneType: [None],
    UsedJob: ["", "j1", "x" * 100],
    typing.Any: [None, True, 7, "eager", ["a"], {"a": {"b": 0.5}}],
}
_NUMBERS: dict[object, list[float]] = {
    int: [0, 1, 200, 2**31, 2**63 - 1],
    float: [0.0, 0.5, 1e300, float("inf")],
}


# -- damaged ones --------------------------------------------------------------------------------------
_SPITE = [b"\xff" * 4, b"\x00" * 8, b"\xc1", b"\xdd\xff\xff\xff\xff", b"9" * 20, b"\\ud800", b"[" * 2000]


def damaged(seeds: Sequence[bytes], random: Random) -> bytes:
    """One of the seeds after a few changes: bits, cuts, insertions, repetitions, parts of another seed."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.randint(1, 4)):
        at, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
        match random.randrange(6):
            case 0:
                data[at : at + 1] = bytes(byte ^ 1 << random.randrange(8) for byte in data[at : at + 1])
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = random.randbytes(random.randint(1, 8))
            case 3:
                data[at:end] = random.choice(_SPITE)
            case 4:
                data[at:at] = data[at : at + 4] * random.choice([2, 30, 600])
            case _:
                data[at:end] = random.choice(seeds)[at:]
    return bytes(data)
