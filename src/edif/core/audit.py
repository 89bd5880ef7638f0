"""The audit log: entries that are only ever appended, each sealed with the hash of all before it.

Whoever changes, drops or inserts an entry has to change every later hash. Cutting off the newest entries leaves a
sound chain: against that, keep the newest number and hash somewhere else, and verify against them.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edif.core.ids import UserId

GENESIS = "0" * 64
"""What the first entry is chained to."""
FABRIC = "fabric"
"""The actor of what nobody in particular did."""


def actor_user(user_id: UserId) -> str:
    return f"user:{user_id}"


def actor_account(uid: int) -> str:
    """Whoever uses the command line on the machine that holds the data."""
    return f"cli:{uid}"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act.

    Attributes:
        at_us: Unix microseconds; whole, so that every store gives back the same.
        actor: who did it: ``user:ID`` (never a name, which can be erased), ``cli:UID``, or ``fabric``.
        action: what was done, ``noun.verb`` in the past tense, such as ``job.accepted``.
        subject: what it was done to: the id of a job, key, user, group or model.
        detail: JSON of an object with what else counts; no personal data, for nothing here can be erased.
    """

    at_us: int
    actor: str
    action: str
    subject: str
    detail: str = "{}"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An entry in its place. Numbers begin with 1 and have no gaps."""

    number: int
    entry: AuditEntry
    hash: str


def sealed(previous_hash: str, number: int, entry: AuditEntry) -> str:
    """The hash (SHA-256, hexadecimal) of an entry behind the one with ``previous_hash``."""
    parts = (
        previous_hash,
        str(number),
        str(entry.at_us),
        entry.actor,
        entry.action,
        entry.subject,
        entry.detail,
    )
    # Each part with its length: no two entries are written alike.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class AuditFault:
    """Where the chain does not hold."""

    number: int
    sentence: str


class Chain:
    """Follows a log, oldest entry first. One change is one fault: after it, following goes on from what is there.

    Attributes:
        number: of the last entry; 0 before the first.
        hash: of the last entry.
    """

    def __init__(self) -> None:
        self.number = 0
        self.hash = GENESIS

    def follow(self, record: AuditRecord) -> Iterator[AuditFault]:
        """Take the next entry; what is wrong with it, if anything."""
        expected, previous = self.number + 1, self.hash
        self.number, self.hash = record.number, record.hash
        if record.number != expected:
            yield AuditFault(
                record.number, f"Entry {expected} is missing: entry {record.number} follows {expected - 1}."
            )
        elif record.hash != sealed(previous, record.number, record.entry):
            yield AuditFault(record.number, f"Entry {record.number}, or one before it, was changed.")


def faults(records: Iterable[AuditRecord]) -> Iterator[AuditFault]:
    """Everything that is wrong with a whole log, oldest entry first."""
    chain = Chain()
    for record in records:
        yield from chain.follow(record)
