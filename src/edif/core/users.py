"""Users and their keys."""

from dataclasses import dataclass
from enum import StrEnum

from edif.core.ids import UserName


class Role(StrEnum):
    """What a person may do: a researcher sees and steers own jobs, an operator everything."""

    RESEARCHER = "researcher"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class User:
    name: UserName
    role: Role
    created_at: float
    email: str | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key: never the key itself, only its SHA-256.

    Times are Unix seconds; ``expires_at`` None means that it does not expire.
    """

    id: str
    user: UserName
    digest: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def usable(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request comes from, as established by the gateway."""

    name: UserName
    role: Role
    email: str | None = None

    @property
    def operator(self) -> bool:
        return self.role is Role.OPERATOR
