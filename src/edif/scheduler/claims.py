"""What users and groups are entitled to, and how many of their jobs run, over all models."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from edif.scheduler.events import Claim


class Entitlement(NamedTuple):
    """Of one user or group. ``most_running`` None means no limit."""

    weight: float = 1.0
    most_running: int | None = None


class LimitMet(NamedTuple):
    """A limit on running jobs that leaves no room, and how many run: those of the user, or of the whole group."""

    of_group: bool
    running: int


@dataclass(slots=True)
class Claims:
    """The newest word on each user and group. Limits count running jobs on all models together.

    Attributes:
        watchers: told of each user and group whose limit may have opened or closed.
    """

    watchers: list[Callable[[str, str], None]] = field(default_factory=list)

    _users: dict[str, Entitlement] = field(default_factory=dict)
    _groups: dict[str, Entitlement] = field(default_factory=dict)
    _group_of: dict[str, str] = field(default_factory=dict)
    _running_users: dict[str, int] = field(default_factory=dict)
    _running_groups: dict[str, int] = field(default_factory=dict)

    def note(self, claim: Claim) -> bool:
        """Take the newest word. Returns whether it differs from an earlier one."""
        user = Entitlement(claim.user_weight, claim.user_most_running)
        group = Entitlement(claim.group_weight, claim.group_most_running)
        changed = (
            self._users.get(claim.user, user) != user
            or self._groups.get(claim.group, group) != group
            or self._group_of.get(claim.user, claim.group) != claim.group
        )
        self._users[claim.user], self._groups[claim.group] = user, group
        self._group_of[claim.user] = claim.group
        return changed

    def user(self, user: str) -> Entitlement:
        return self._users[user]

    def group(self, group: str) -> Entitlement:
        return self._groups[group]

    def group_of(self, user: str) -> str:
        return self._group_of[user]

    def user_may_run(self, user: str) -> bool:
        most = self._users[user].most_running
        return most is None or self._running_users.get(user, 0) < most

    def group_may_run(self, group: str) -> bool:
        most = self._groups[group].most_running
        return most is None or self._running_groups.get(group, 0) < most

    def limit_met(self, user: str, group: str) -> LimitMet | None:
        """Why no further job of this user may begin."""
        if not self.user_may_run(user):
            return LimitMet(False, self._running_users.get(user, 0))
        if not self.group_may_run(group):
            return LimitMet(True, self._running_groups.get(group, 0))
        return None

    def limited(self, user: str, group: str) -> bool:
        """Whether a job that begins or ends may open or close the way for others of these."""
        return self._users[user].most_running is not None or self._groups[group].most_running is not None

    def began(self, user: str, group: str) -> None:
        self._running_users[user] = self._running_users.get(user, 0) + 1
        self._running_groups[group] = self._running_groups.get(group, 0) + 1
        self._tell(user, group)

    def ended(self, user: str, group: str) -> None:
        for running, name in ((self._running_users, user), (self._running_groups, group)):
            running[name] -= 1
            if not running[name]:
                del running[name]
        self._tell(user, group)

    def _tell(self, user: str, group: str) -> None:
        if self.limited(user, group):
            for watcher in self.watchers:
                watcher(user, group)

    def running(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many jobs run, by user and by group; those without are left out."""
        return self._running_users, self._running_groups

    def copy(self) -> "Claims":
        """Without the watchers."""
        return Claims(
            [],
            self._users.copy(),
            self._groups.copy(),
            self._group_of.copy(),
            self._running_users.copy(),
            self._running_groups.copy(),
        )
