"""The processes that the zygote forks when it is asked to, from the asking to their death."""

import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from edif.wire import pipe
from edif.worker.processes import Process

P = TypeVar("P", bound=Process)


class Forks:
    """All processes of one replica but the zygote.

    Args:
        tell: says something to the zygote, with descriptors; raises :class:`~edif.wire.pipe.PipeError` if it cannot.
    """

    def __init__(self, tell: Callable[[msgspec.Struct, Sequence[int]], None]) -> None:
        self._tell = tell
        self._asked: deque[Process] = deque()
        """The zygote forks in the order in which it is asked."""
        self._there: dict[int, Process] = {}

    def fork(
        self, request: msgspec.Struct, make: Callable[[socket.socket], P], fds: Sequence[int] = ()
    ) -> P | None:
        """Ask for a process; None if the zygote is gone or takes no more for now.

        Args:
            request: what the zygote is told.
            make: makes our side of it, given our end of its socket.
            fds: those that ride along behind its own end of it.

        Raises:
            OSError: too many open files.
        """
        ours, theirs = pipe.pair()
        with theirs:
            process = make(ours)
            try:
                self._tell(request, (theirs.fileno(), *fds))
            except pipe.PipeError:
                process.discard()
                return None
        self._asked.append(process)
        process.line.listen()
        return process

    def kill(self, pid: int) -> None:
        with suppress(pipe.PipeError):  # gone, and it has taken all its children with it
            self._tell(pipe.KillChild(pid), ())

    def forked(self, pid: int) -> None:
        if self._asked:
            process = self._there[pid] = self._asked.popleft()
            process.forked(pid)

    def exited(self, pid: int, status: int) -> None:
        process = self._there.pop(pid, None)
        if process is not None:
            process.died(status, with_all=False)

    def drop_all(self) -> None:
        """The zygote has ended, and all with it."""
        processes = [*self._there.values(), *self._asked]
        self._there.clear()
        self._asked.clear()
        for process in processes:
            process.died(-signal.SIGKILL, with_all=True)
