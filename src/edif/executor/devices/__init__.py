"""Models on an accelerator: the weights lie on the device once, and every process of the replica maps them.

A context of CUDA cannot be forked. So the zygote never touches the device: it holds the weights in the host's memory, and one of its
forks, the *keeper*, puts them on the device and keeps them there. Each process that runs jobs begins with the device by itself, after it has been
closed in, and maps what the keeper holds. All of that memory is writable for all of them, which is why one job at a time is let at it and the
keeper puts right, between two jobs, what the first one changed (``docs/decisions/0023-devices.md``).

:mod:`~edif.executor.devices.device` is the port, :mod:`~edif.executor.devices.cuda` NVIDIA's cards and
:mod:`~edif.executor.devices.host_memory` their twin in the host's memory, which the tests run everywhere.
"""

from edif.executor.devices.device import CannotUseDevice, Device
from edif.wire.link import ON_CUDA, ON_HOST, ON_PROCESSOR

__all__ = ["CannotUseDevice", "Device", "device_named"]


def device_named(name: str) -> Device | None:
    """The device that a model's settings name; None for the processor, which is none.

    Raises:
        CannotUseDevice: there is no such kind.
    """
    kind, _, index = name.partition(":")
    if kind == ON_PROCESSOR:
        return None
    if kind == ON_HOST:
        from edif.executor.devices.host_memory import HostMemory

        return HostMemory()
    if kind == ON_CUDA:
        from edif.executor.devices.cuda import Cuda

        return Cuda(int(index or 0))
    raise CannotUseDevice(f"There is no device {name!r}.")
