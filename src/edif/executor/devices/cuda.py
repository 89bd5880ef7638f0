"""NVIDIA's cards. Written from the documentation of CUDA and of torch, and **never run on a card yet**.

Sources: CUDA Driver API, "Memory Management" and "Unified Addressing"; the CUDA array interface, version 3.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from edif.executor.devices.device import CannotUseDevice, Shared
from edif.walls import nvidia

_LIBRARY = "libcuda.so.1"
_HANDLE_BYTES = 64
_LAZY_PEER_ACCESS = 1
_GIB = 2**30


class _Handle(ctypes.Structure):
    """``CUipcMemHandle``, which the driver takes by value."""

    _fields_ = (("reserved", ctypes.c_char * _HANDLE_BYTES),)


class _Bytes:
    """Some of the card's memory, told in the way in which libraries of CUDA tell each other."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


class _CudaSpan:
    def __init__(self, address: int, device: torch.device) -> None:
        self._address = address
        self._device = device

    def view(self, start: int, size: int) -> torch.Tensor:
        return torch.as_tensor(_Bytes(self._address + start, size), device=self._device)


class Cuda:
    """See :class:`~edif.executor.devices.device.Device`.

    Args:
        index: of those that the process sees.
    """

    folders = nvidia.FOLDERS
    variables = nvidia.VARIABLES

    def __init__(self, index: int) -> None:
        self._device = torch.device("cuda", index)

    @property
    def files(self) -> tuple[Path, ...]:
        return nvidia.device_files()

    def begin(self) -> None:
        try:
            torch.empty(1, device=self._device)  # makes the context
            torch.cuda.set_device(self._device)
        except (RuntimeError, AssertionError) as error:  # of a torch without CUDA it is the latter
            first = (str(error).strip().splitlines() or [""])[0]
            raise CannotUseDevice(f"The device {str(self._device)!r} cannot be used: {first}") from error

    def allocate(self, size: int) -> tuple[_CudaSpan, Shared]:
        driver, address, handle = _driver(), ctypes.c_uint64(), _Handle()
        if driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)):
            free, _ = torch.cuda.mem_get_info(self._device)
            raise CannotUseDevice(
                f"The model's weights take {size / _GIB:,.4g} GiB, and {str(self._device)!r} has {free / _GIB:,.4g} GiB free."
            )
        _must(driver.cuIpcGetMemHandle(ctypes.byref(handle), address), "cannot be shared between processes")
        return _CudaSpan(address.value, self._device), Shared(bytes(handle), ())

    def open(self, handle: bytes, fds: Sequence[int], size: int) -> _CudaSpan:
        address = ctypes.c_uint64()
        shared = _Handle.from_buffer_copy(handle)
        _must(
            _driver().cuIpcOpenMemHandle_v2(ctypes.byref(address), shared, ctypes.c_uint(_LAZY_PEER_ACCESS)),
            "cannot be mapped",
        )
        return _CudaSpan(address.value, self._device)

    def finish(self) -> None:
        torch.cuda.synchronize(self._device)


def _driver() -> Any:
    driver = ctypes.CDLL(_LIBRARY)
    driver.cuMemAlloc_v2.argtypes = (ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t)
    driver.cuIpcGetMemHandle.argtypes = (ctypes.POINTER(_Handle), ctypes.c_uint64)
    driver.cuIpcOpenMemHandle_v2.argtypes = (ctypes.POINTER(ctypes.c_uint64), _Handle, ctypes.c_uint)
    return driver


def _must(result: int, what_not: str) -> None:
    if result:
        raise CannotUseDevice(f"The card's memory {what_not}: CUDA says {result}.")
