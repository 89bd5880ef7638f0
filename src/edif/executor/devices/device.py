"""The port to a kind of device: what is asked of it, and by whom."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch


class CannotUseDevice(Exception):
    """The device is not there, or has no room; the text is for the people who wait for the model."""


class Shared(NamedTuple):
    """By what another process finds a span.

    Attributes:
        handle: what the device's own interface gives for that purpose.
        fds: descriptors that it takes besides; forks of whoever holds them have them too.
    """

    handle: bytes
    fds: tuple[int, ...]


class Span(Protocol):
    """Memory of a device in one piece, which several processes may map at the same time."""

    def view(self, start: int, size: int) -> torch.Tensor:
        """These bytes as a tensor of uint8 whose storage is no larger. It is good for as long as the process lives."""


class Device(Protocol):
    """One device, as the processes of a replica use it. The zygote asks for :attr:`files`, :attr:`folders` and :attr:`variables` alone.

    Attributes:
        files: its files in ``/dev``, which a process that is closed in must still be able to open.
        folders: what its libraries read besides.
        variables: those of the environment that they read.
    """

    @property
    def files(self) -> tuple[Path, ...]: ...

    @property
    def folders(self) -> tuple[Path, ...]: ...

    @property
    def variables(self) -> tuple[str, ...]: ...

    def begin(self) -> None:
        """Make it ready for this process, once, before anything else.

        Raises:
            CannotUseDevice: it is not there.
        """

    def allocate(self, size: int) -> tuple[Span, Shared]:
        """So many bytes, for as long as this process lives.

        Raises:
            CannotUseDevice: it has no room.
        """

    def open(self, handle: bytes, fds: Sequence[int], size: int) -> Span:
        """Map what another process has allocated.

        Raises:
            CannotUseDevice: that process is gone, or this one may not.
        """

    def finish(self) -> None:
        """Wait until all that this process has begun on it is done.

        Raises:
            torch.AcceleratorError: some of it failed. The process cannot use the device any more.
        """
