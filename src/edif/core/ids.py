"""Names of things. Ids are opaque and URL-safe; those that open something are unguessable (at least 96 random bits)."""

import secrets
from typing import NewType

JobId = NewType("JobId", str)
SessionId = NewType("SessionId", str)
ReplicaId = NewType("ReplicaId", str)
AgentId = NewType("AgentId", str)
ModelId = NewType("ModelId", str)
"""The repository id under which a model is served, e.g. ``edif/demo``."""
UserName = NewType("UserName", str)
UserId = NewType("UserId", str)
"""Names a person where the name must not stand: it stays when the name is erased."""
GroupName = NewType("GroupName", str)

ANONYMOUS = UserName("local")
"""The owner of every job on a fabric without users."""
LOCAL = UserName("operator")
"""Whoever holds the operator token of the data folder."""
ERASED = "erased-"
"""How pseudonyms begin."""


def new_job_id() -> JobId:
    return JobId("j" + secrets.token_hex(12))


def new_session_id() -> SessionId:
    return SessionId("s" + secrets.token_hex(16))


def new_replica_id() -> ReplicaId:
    return ReplicaId("r" + secrets.token_hex(6))


def new_user_id() -> UserId:
    return UserId("u" + secrets.token_hex(6))


def new_agent_id() -> AgentId:
    return AgentId("a" + secrets.token_hex(6))
