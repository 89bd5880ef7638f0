"""The keeper: a fork of the zygote that holds the weights on the device, and puts them right between two jobs.

It runs no user code, and speaks with the zygote alone.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import torch

from edif.executor.devices.device import CannotUseDevice, Device, Shared
from edif.executor.devices.sums import ROW_BYTES, Sums
from edif.wire import pipe

_COPIED_AT_ONCE = 256 * 2**20
_ANSWERS_WITHIN_S = 120.0
"""Reading a card's memory takes less than a second, and writing all of it anew less than a minute."""


class Keeper:
    """The zygote's side.

    Args:
        device: where the weights go.
        weights: all of them, uint8, in the host's memory. They must not change.
        settle: what a fork does first.

    Attributes:
        pid: its process.
        shared: by what other forks find the weights.

    Raises:
        CannotUseDevice: they cannot be held there.
    """

    def __init__(self, device: Device, weights: torch.Tensor, settle: Callable[[], None]) -> None:
        ours, theirs = pipe.pair()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                settle()
                ours.close()
                _keep(theirs, device, weights)
                code = 0
            except BaseException:  # noqa: BLE001 - a fork must never return into the zygote's code
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        theirs.close()
        self._sock = ours
        try:
            message, fds = pipe.receive(ours, pipe.from_keeper)
        except pipe.PipeError:
            ours.close()
            raise CannotUseDevice(
                "The process that puts the weights on the device died; the agent's log may say why."
            ) from None
        if not isinstance(message, pipe.Held):
            ours.close()
            raise CannotUseDevice(message.sentence if isinstance(message, pipe.LoadFailed) else "")
        self.shared = Shared(message.handle, tuple(fds))
        ours.settimeout(_ANSWERS_WITHIN_S)

    def put_right(self) -> int:
        """Compare the weights with what they were, and put back what differs; nobody else may be at the device meanwhile.

        Returns:
            How many bytes were put back, to within a row.

        Raises:
            PipeError: the keeper is gone, and the weights with it, or a device that hangs does not let it answer.
        """
        pipe.send(self._sock, pipe.PutRight())
        message, _ = pipe.receive(self._sock, pipe.from_keeper)
        return message.restored_bytes if isinstance(message, pipe.WasPutRight) else 0

    def end(self) -> None:
        """End it. Whoever has the weights mapped must be gone."""
        self._sock.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _keep(sock: socket.socket, device: Device, weights: torch.Tensor) -> None:
    try:
        device.begin()
        span, shared = device.allocate(weights.numel())
        there = span.view(0, weights.numel())
        for start in range(0, weights.numel(), _COPIED_AT_ONCE):
            there[start : start + _COPIED_AT_ONCE].copy_(weights[start : start + _COPIED_AT_ONCE])
        sums = Sums(there)
    except CannotUseDevice as error:
        pipe.send(sock, pipe.LoadFailed(pipe.clip(str(error))))
        return
    pipe.send(sock, pipe.Held(shared.handle), shared.fds)
    with suppress(pipe.PipeError):  # the zygote is gone
        while True:
            pipe.receive(sock, pipe.to_keeper)
            restored = 0
            for row in sums.changed():
                part = slice(row * ROW_BYTES, (row + 1) * ROW_BYTES)
                there[part].copy_(weights[part])
                restored += len(weights[part])
            device.finish()
            pipe.send(sock, pipe.WasPutRight(restored))
