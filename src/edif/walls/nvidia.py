"""What a process that is closed in must be left to use NVIDIA's cards. Gathered from the driver's documentation, and never tried on a card yet."""

from pathlib import Path

VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
FOLDERS = tuple(
    Path(each)
    for each in (
        *("/proc/driver/nvidia", "/proc/devices", "/proc/modules", "/proc/version"),
        *("/sys/bus/pci", "/sys/devices", "/sys/module/nvidia", "/sys/module/nvidia_uvm"),
        *("/etc/nvidia", "/usr/share/nvidia", "/usr/local/nvidia", "/usr/local/cuda"),
    )
)
REQUESTS = ((0xFF00, 0x4600), (0xFFFFFF00, 0), (0xFFFFFFFC, 0x30000000))
"""Those to the driver, as masks and values: those of the letter F, those of its unified memory, which are small numbers
without a letter, and the two that begin and end that."""

_OF_ALL_CARDS = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps", "nvidia-modeset")


def device_files() -> tuple[Path, ...]:
    """Those of all cards: the driver opens each, to learn which there are."""
    folder = Path("/dev")
    return (*sorted(folder.glob("nvidia[0-9]*")), *(folder / name for name in _OF_ALL_CARDS))
