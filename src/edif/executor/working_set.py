"""The pages that a job writes to, learned once and taken ahead by each fork.

A fork shares its parent's memory until it writes; then the kernel copies that page, one fault for each. Python writes to
whatever it looks at (reference counts), so a job begins with thousands of such faults, and nearly the same ones each
time. One fork therefore runs a trial job and tells which pages became its own; later forks have the kernel copy those
at once, before their job comes.
"""

import os
import select
import signal
import traceback
from collections.abc import Callable, Iterator

import numpy as np

from edif.executor.huge_pages import populate
from edif.executor.own_memory import PAGE, Mapping, pages_of_nobody_else, writable_mappings
from edif.walls import kernel

_TRIAL_S = 60.0


class WorkingSet:
    """Runs of pages, as (address, length) in bytes; none if they could not be learned."""

    def __init__(self, runs: np.ndarray[tuple[int, int], np.dtype[np.uint64]]) -> None:
        self._runs = [(int(start), int(length)) for start, length in runs]
        self.size_bytes = sum(length for _, length in self._runs)

    @classmethod
    def learn(cls, trial: Callable[[], None]) -> "WorkingSet":
        """Run ``trial`` in a fork and see what it writes to. It must be our own code: what it reports is believed."""
        read, write = os.pipe()
        try:
            pid = kernel.fork()
        except OSError:  # no room for one more process: then nothing is learned
            os.close(read)
            os.close(write)
            return cls(np.empty((0, 2), dtype=np.uint64))
        if pid == 0:
            code = 1
            try:
                os.close(read)
                _report(trial, write)
                code = 0
            except BaseException:  # noqa: BLE001 - the fork must not return into its parent's work
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(write)
        data = _read_all(read, pid)
        os.close(read)
        _, status = os.waitpid(pid, 0)
        return cls(np.frombuffer(data if status == 0 else b"", dtype=np.uint64).reshape(-1, 2))

    def take(self) -> None:
        """Make these pages this process's own. Called in a fork of the process that learned them."""
        for start, length in self._runs:
            populate(start, length)


def _report(trial: Callable[[], None], fd: int) -> None:
    before = list(_writable_memory())
    trial()
    with os.fdopen(fd, "wb") as report:
        for start, end, *_ in before:
            own = np.flatnonzero(pages_of_nobody_else(start, end - start))
            if len(own):
                breaks = np.flatnonzero(np.diff(own) > 1)
                first, last = own[np.r_[0, breaks + 1]], own[np.r_[breaks, len(own) - 1]]
                runs = np.stack([start + first * PAGE, (last - first + 1) * PAGE], axis=1)
                report.write(runs.astype(np.uint64).tobytes())


def _writable_memory() -> Iterator[Mapping]:
    for mapping in writable_mappings():
        if "memfd:edif-weights" not in mapping.name and mapping.name != "[stack]":
            yield mapping


def _read_all(fd: int, pid: int) -> bytes:
    pieces: list[bytes] = []
    while True:
        if not select.select([fd], [], [], _TRIAL_S)[0]:
            os.kill(pid, signal.SIGKILL)  # hangs; then nothing is learned
        if not (piece := os.read(fd, 1 << 20)):
            return b"".join(pieces)
        pieces.append(piece)
