"""The record stores that the contract suite runs on, and what is written into them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from edif.core.ids import AgentId, JobId, ModelId, ReplicaId, UserName
from edif.core.job import Attempt, Ending, Extras, Job, JobState
from edif.records.migrate import open_store
from edif.records.store import RecordStore


@dataclass(frozen=True, slots=True)
class StoreFactory:
    """One kind of store. Opened twice on the same folder it gives two stores on the same data.

    Attributes:
        url: makes a fresh database, if the kind is not one that lies in the folder itself.
    """

    name: str
    url: Callable[[], str] = str
    _urls: dict[Path, str] = field(default_factory=dict)

    def url_of(self, folder: Path) -> str:
        """What the setting ``record_store`` says for the data of this folder."""
        if folder not in self._urls:
            self._urls[folder] = self.url()
        return self._urls[folder]

    async def open(self, folder: Path, *, leading: bool = False) -> RecordStore:
        return await open_store(folder, self.url_of(folder), leading=leading)


_numbers = count()
ADA, BOB = UserName("ada"), UserName("bob")


def a_job(**changes: Any) -> Job:
    number = next(_numbers)
    fields: dict[str, Any] = {
        "id": JobId(f"j{number:024}"),
        "owner": ADA,
        "model": ModelId("m/one"),
        "model_key": "nnsight.modeling.language.LanguageModel:{}",
        "compress": True,
        "env": {},
        "payload_bytes": 10,
        "created_at": float(number),
        "extras": Extras(packed=True, rounding="bfloat16", link_bytes_per_s=1e6, uses=("j0",), merge=False),
    }
    return Job(**{**fields, **changes})


def an_attempt(job: JobId, number: int = 1, replica: str = "r1") -> Attempt:
    return Attempt(job, number, AgentId("a1"), ReplicaId(replica), time.time(), time.time() + 600)


def an_ending(state: JobState = JobState.COMPLETED, **changes: Any) -> Ending:
    return Ending(state, **changes)
