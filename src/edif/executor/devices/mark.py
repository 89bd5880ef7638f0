"""The sign that a job has begun in a process, which nothing that the job does can take back."""

import os


class Mark:
    """Made in the zygote before it forks; the fork has :meth:`set`, the zygote :meth:`was_set`. Each first gives up the other's end.

    A byte in a pipe: the process that wrote it cannot read it, and whether it is there can be asked after its death.

    Attributes:
        fd: by which it is set.
    """

    def __init__(self) -> None:
        self._read, self.fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def set(self) -> None:
        """A job begins in this process. From then on the process does not have the pipe any more."""
        if self.fd >= 0:
            os.write(self.fd, b"1")
            self._close_writing()

    def of_this_fork(self) -> None:
        """In the fork: it writes only."""
        os.close(self._read)

    def of_zygote(self) -> None:
        """In the zygote: it reads only."""
        self._close_writing()

    def was_set(self) -> bool:
        """Whether a job has begun in the process, which is dead. To be asked once."""
        try:
            return bool(os.read(self._read, 1))
        finally:
            os.close(self._read)

    def discard(self) -> None:
        """There was no fork."""
        os.close(self._read)
        self._close_writing()

    def _close_writing(self) -> None:
        os.close(self.fd)
        self.fd = -1
