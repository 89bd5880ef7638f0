"""The environment of a model's processes: a few names of the agent's, and what is set for all of them."""

from collections.abc import Mapping

from edif.core.limits import MIB

# What the model libraries need to find their files; nothing else of the agent's environment is passed on.
_PASSED = (
    *("PATH", "HOME", "LANG", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),
)
ADDED = {
    # Asked whether there is a card, torch begins with CUDA, and forks of a process that has cannot use it any more. So it asks elsewhere.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # An OpenMP thread that has nothing to do waits some microseconds and then sleeps. By default it keeps its
    # processor for 10 ms and more; where another job wants that, both take ten times as long.
    "GOMP_SPINCOUNT": "1000",
    # Measured: with it a matrix product has the same bits whatever the number of rows, so that a prompt's activations are
    # the same alone and in a shared pass. It costs nothing here.
    "MKL_CBWR": "AUTO,STRICT",
    # Free memory up to so much stays with the process: a pass allocates what the last one has just given back.
    "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={32 * MIB}:glibc.malloc.trim_threshold={64 * MIB}",
}


def environment_from(agents: Mapping[str, str]) -> dict[str, str]:
    """What a zygote starts with; its forks inherit it."""
    return {name: agents[name] for name in _PASSED if name in agents} | ADDED
