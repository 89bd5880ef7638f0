"""Limits that stand from the start, and what they are counted in."""

from dataclasses import dataclass
from enum import StrEnum

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one job, and what its result meets on its way.

    Attributes:
        time_s: wall time of one attempt on a replica, in seconds.
        result_bytes: size of the serialised result, in bytes, before compression.
        payload_bytes: size of the request's blob as it travels, in bytes.
        payload_expanded_bytes: size of the blob after decompression, in bytes.
        log_bytes: text printed by user code that is passed on, in bytes.
        memory_bytes: memory of a sealed job beyond the model's.
        scratch_bytes: a sealed job's scratch folder.
        link_bytes_per_s: what the line of a client carries that says nothing of it: results are compressed accordingly.
    """

    time_s: float = 600.0
    result_bytes: int = GIB
    payload_bytes: int = 256 * MIB
    payload_expanded_bytes: int = GIB
    log_bytes: int = 256 * 1024
    memory_bytes: int = 2 * GIB
    scratch_bytes: int = 256 * MIB
    link_bytes_per_s: float = 125e6  # 1 Gbit/s: between the room next door and a home


class Isolation(StrEnum):
    """Where jobs run: closed in one by one, together in one process, or closed in as soon as there are users."""

    AUTO = "auto"
    SEALED = "sealed"
    SHARED = "shared"


class Merge(StrEnum):
    """Whether traces of several jobs share forward passes: where it pays, never, or wherever they can (for tests and proofs)."""

    AUTO = "auto"
    OFF = "off"
    ALWAYS = "always"


class Padding(StrEnum):
    """Whether prompts of different length share forward passes, the shorter ones padded: where a batch does not keep the bits anyway, never, always."""

    AUTO = "auto"
    OFF = "off"
    ON = "on"


class SendFiles(StrEnum):
    """Whether the kernel sends results without their bytes passing through the gateway: to other machines, to all, to none."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


DEFAULT_LIMITS = Limits()
