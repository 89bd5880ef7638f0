"""Loading a model for serving, and what a process needs to know of it."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from edif.wire.link import ModelSpec


class CannotLoad(Exception):
    """The model cannot be loaded; the text is for the people who wait for it."""


def load_model(spec: ModelSpec) -> Any:
    """The dispatched nnsight model of ``spec``, in evaluation mode, on the CPU.

    Raises:
        CannotLoad: with one sentence that names the reason.
    """
    from nnsight.modeling.transformers import TransformersModel

    dtype = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise CannotLoad(f"The dtype {spec.dtype!r} of model {spec.id!r} is not one of torch's.")
    source = spec.path or spec.id
    if spec.path is not None and not Path(spec.path, "config.json").is_file():
        raise CannotLoad(f"The folder of model {spec.id!r} has no config.json on this node.")
    try:
        with _quiet():
            model = TransformersModel(
                source,
                revision=spec.revision,
                task=spec.task,
                dtype=dtype,
                trust_remote_code=spec.trust_remote_code,
                dispatch=True,
                **_in_host_memory(),
            )
    except Exception as error:
        reason = str(error).strip().splitlines()
        first = reason[0][:500] if reason else ""
        raise CannotLoad(
            f"The model {spec.id!r} could not be loaded: {type(error).__name__}: {first}"
        ) from error
    model._module.eval()  # noqa: SLF001 - nnsight's own name for the wrapped module
    return model


def _in_host_memory() -> dict[str, str]:
    """What keeps transformers from putting a model on a card because the machine has one: a process that has begun with a card cannot fork."""
    return {"device": "cpu"} if torch.cuda.is_available() else {}


def adapter_folders(spec: ModelSpec) -> dict[str, str]:
    """The folder of each allowed adapter, fetched now where it is named without one.

    Raises:
        CannotLoad: an adapter is not in its folder and cannot be fetched.
    """
    if not spec.adapters:
        return {}
    import huggingface_hub
    import peft  # noqa: F401 - children inherit it, for it takes seconds to import

    folders = {}
    for adapter, path in spec.adapters.items():
        try:
            with _quiet():
                folder = path or huggingface_hub.snapshot_download(adapter)
        except Exception as error:
            raise CannotLoad(f"The adapter {adapter!r} cannot be fetched: {error}.") from error
        if not Path(folder, "adapter_config.json").is_file():
            raise CannotLoad(f"The folder of adapter {adapter!r} has no adapter_config.json on this node.")
        folders[adapter] = folder
    return folders


def model_folders(model: Any) -> list[str]:
    """Where the model's files lie: its folder, or its repository in the Hub's cache, whose files are links within it."""
    name = str(model._module.config._name_or_path)  # noqa: SLF001 - transformers' own record of it
    if Path(name).is_dir():
        return [name]
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return [str(Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model")))]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and advice of the libraries out of the agent's log."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
