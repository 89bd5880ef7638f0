"""The record stores that the contract suite runs on: a new one is added to :data:`FACTORIES`."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from edif.core.ids import AgentId, JobId, ModelId, ReplicaId, UserName
from edif.core.job import Attempt, Ending, Job, JobState
from edif.records.migrate import open_store
from edif.records.store import RecordStore


@dataclass(frozen=True, slots=True)
class StoreFactory:
    """How a store is opened; twice on the same folder gives two stores on the same data."""

    name: str
    open: Callable[[Path], Awaitable[RecordStore]]


FACTORIES = [StoreFactory("sqlite", open_store)]

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
    }
    return Job(**{**fields, **changes})


def an_attempt(job: JobId, number: int = 1) -> Attempt:
    return Attempt(job, number, AgentId("a1"), ReplicaId("r1"), time.time(), time.time() + 600)


def an_ending(state: JobState = JobState.COMPLETED, **changes: Any) -> Ending:
    return Ending(state, **changes)
