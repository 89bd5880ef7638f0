"""Limits that stand from the start, and what they are counted in."""

from dataclasses import dataclass

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one job.

    Attributes:
        time_s: wall time of one attempt on a replica, in seconds.
        result_bytes: size of the serialised result, in bytes, before compression.
        payload_bytes: size of the request's blob as it travels, in bytes.
        payload_expanded_bytes: size of the blob after decompression, in bytes.
        log_bytes: text printed by user code that is passed on, in bytes.
    """

    time_s: float = 600.0
    result_bytes: int = GIB
    payload_bytes: int = 256 * MIB
    payload_expanded_bytes: int = GIB
    log_bytes: int = 256 * 1024


DEFAULT_LIMITS = Limits()
