"""What all scenarios of ``connected.py`` have in common: the fabric, its model, and words for what is expected."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub.hf_api
import pytest
import torch
from huggingface_hub import constants
from nnsight import TransformersModel
from nnsight.modeling.mixins.remotable import Remotable
from nnsight.schema.config import CONFIG

import edif
from edif.core import errors
from edif.core.errors import EdifError
from edif.records.sqlite import DATABASE_NAME

PROMPT = "the cat sat on the mat"
MIB = 2**20
PATIENCE_S = 180.0


class Here:
    """What the scenarios have in common."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.url, self.key, self.other_key = plan["url"], plan["key"], plan["other_key"]
        self.data = Path(plan["data"])
        self.cut_download_bytes = plan["cut_download_bytes"]
        self.model = TransformersModel(plan["model"], task="text-generation")

    def connect(self, url: str | None = None) -> edif.Connection:
        return edif.connect(url or self.url, self.key)

    def trace(self, **options: Any) -> Any:
        """A small trace; the tracer, and what it saved if it was waited for."""
        model, hidden = self.model, None
        with model.trace(PROMPT, remote=True, **options) as tracer:
            hidden = model.transformer.h[0].output.save()
        return tracer, hidden

    def large(self, numbers: int) -> torch.Tensor:
        model, numbers_drawn = self.model, None
        with model.trace(PROMPT, remote=True):
            numbers_drawn = torch.rand(numbers, generator=torch.Generator().manual_seed(7)).save()
        return numbers_drawn  # noqa: RET504 - a trace's block is not run here

    def slow(self, seconds: float, **options: Any) -> Any:
        model, hidden = self.model, None
        with model.trace(PROMPT, remote=True, **options) as tracer:
            time.sleep(seconds)
            hidden = model.transformer.h[0].output.save()
        return tracer, hidden

    def jobs(self) -> list[dict[str, Any]]:
        answer = httpx.get(
            f"{self.url}/edif/v1/jobs", headers={"ndif-api-key": self.key}, params={"limit": 1000}
        )
        return list(answer.json()["jobs"])

    def stored_bytes(self) -> float:
        """Of the quota, so much is used."""
        answer = httpx.get(f"{self.url}/edif/v1/quota", headers={"ndif-api-key": self.key})
        return float(answer.json()["user"]["stored_bytes"]["used"])

    def extras(self, job: str) -> dict[str, Any]:
        """What was asked for with a job, as it is on record."""
        with closing(sqlite3.connect(self.data / DATABASE_NAME)) as records:
            (stored,) = records.execute("SELECT extras FROM jobs WHERE id = ?", (job,)).fetchone()
        return dict(json.loads(stored))

    def kill_gateway(self) -> None:
        facts = json.loads((self.data / "run" / "gateway.json").read_text())
        os.kill(int(facts["pid"]), signal.SIGKILL)


def drawn(numbers: int) -> torch.Tensor:
    """What :meth:`Here.large` brings."""
    return torch.rand(numbers, generator=torch.Generator().manual_seed(7))


@contextmanager
def told(code: errors.ErrorCode, *words: str) -> Iterator[None]:
    """The block fails with this code, and its sentence has these words."""
    with pytest.raises(EdifError) as caught:
        yield
    assert caught.value.kind is code, caught.value
    for word in words:
        assert word in str(caught.value), caught.value


@contextmanager
def compressing(value: bool) -> Iterator[None]:
    before, CONFIG.API.COMPRESS = CONFIG.API.COMPRESS, value
    try:
        yield
    finally:
        CONFIG.API.COMPRESS = before


def surroundings() -> list[Any]:
    """All that a connection changes in this process."""
    return [
        Remotable._remote_backend,
        CONFIG.API.HOST,
        CONFIG.API.APIKEY,
        os.environ.get("HF_ENDPOINT"),
        os.environ.get("HF_TOKEN"),
        constants.ENDPOINT,
        constants.HUGGINGFACE_CO_URL_TEMPLATE,
        constants.HF_URL_HOSTS,
        huggingface_hub.hf_api.api.endpoint,
    ]
