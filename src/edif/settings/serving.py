"""Which models are served, and how."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edif.core.limits import Isolation, Merge, Padding
from edif.settings.kinds import Url
from edif.wire.link import ON_CUDA, ON_HOST, ON_PROCESSOR


def _device(value: str) -> str:
    if not re.fullmatch(rf"{ON_PROCESSOR}|{ON_CUDA}(:[0-9]{{1,2}})?|{ON_HOST}", value):
        raise ValueError("must be cpu, cuda or cuda:N")
    return value


Device = Annotated[str, AfterValidator(_device)]


class DeploymentSettings(BaseModel):
    """What an operator can set for one model: ``[deployments."org/name"]`` in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path | None = Field(
        default=None, description="Its folder; without one it is loaded from the Hub."
    )
    revision: str | None = Field(default=None, description="The Hub revision.")
    task: str = Field(default="text-generation", description="The transformers pipeline task.")
    trust_remote_code: bool = Field(
        default=False, description="Whether the repository's own Python code may be run while loading."
    )
    dtype: str | None = Field(default=None, description="The torch dtype, if not that of all models.")
    device: Device | None = Field(default=None, description="Where it computes, if not as all models.")
    threads: int | None = Field(default=None, ge=1, description="Threads of a replica, if not as all models.")
    adapters: dict[str, str] | None = Field(
        default=None, description="Allowed PEFT adapters, if not those of all models."
    )
    isolation: Isolation | None = Field(
        default=None, description="Where its jobs run, if not as all models'."
    )
    sealed_at_once: int | None = Field(
        default=None, ge=1, description="Its sealed jobs at the same time, if not as all models'."
    )
    merge: Merge | None = Field(
        default=None, description="Whether its traces share forward passes, if not as all models'."
    )
    merge_padding: Padding | None = Field(
        default=None, description="Whether its prompts of different length do, if not as all models'."
    )


class Serving(BaseModel):
    demo: bool = Field(default=False, description="Serve the bundled demo model.")
    models: tuple[str, ...] = Field(default=(), description="Served models, each ID or ID=FOLDER.")
    dtype: str = Field(default="float32", description="The torch dtype in which models are loaded.")
    device: Device = Field(
        default=ON_PROCESSOR,
        description="Where models compute: `cpu`, or one NVIDIA GPU, `cuda` or `cuda:N`. Never run on a GPU yet; see below.",
    )
    threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, description="Threads of a replica."
    )
    adapters: dict[str, str] = Field(
        default_factory=dict,
        description="Allowed PEFT adapters: id to folder, or to an empty text for the Hub.",
    )
    deployments: dict[str, DeploymentSettings] = Field(
        default_factory=dict, description="Models with settings of their own, by id; see below."
    )
    hub_upstream: Url | None = Field(
        default=None, description="A Hub to fetch metadata of other models from."
    )
