"""Users, their groups, and their keys."""

from dataclasses import dataclass, field
from enum import StrEnum

from edif.core.ids import GroupName, UserId, UserName, new_user_id


class Role(StrEnum):
    """What a person may do: a researcher sees and steers own jobs, an operator everything."""

    RESEARCHER = "researcher"
    OPERATOR = "operator"


class Priority(StrEnum):
    """Which jobs go first, whatever the shares. A job that has waited long enough goes with the first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class User:
    """
    Attributes:
        id: stays when the name is erased; what the audit log knows a person by.
        group: a lab or a course whose weight its members share; without one, a user is a group of one.
        weight: this user's part among the group's users, or among all groups.
        priority: None takes the group's.
    """

    name: UserName
    role: Role
    created_at: float
    email: str | None = None
    id: UserId = field(default_factory=new_user_id)
    group: GroupName | None = None
    weight: float = 1.0
    priority: Priority | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Users who share one weight against the other groups."""

    name: GroupName
    created_at: float
    weight: float = 1.0
    priority: Priority = Priority.NORMAL


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
    """Who a request comes from, as established by the gateway.

    Attributes:
        id: None for who is no user: everybody on an open fabric, and the holder of the operator token.
    """

    name: UserName
    role: Role
    email: str | None = None
    id: UserId | None = None

    @property
    def operator(self) -> bool:
        return self.role is Role.OPERATOR
