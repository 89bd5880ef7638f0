"""What every user and group uses now, counted in memory: by the gateway that runs the jobs, for nobody else changes it.

The record store has the same facts: what was spent day by day, what is stored, which jobs are unfinished. From them a gateway
that starts fills its ledger, and counts it anew now and then, for others delete results and erase people.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from edif.core.ids import GroupName, UserName
from edif.core.job import JobState
from edif.core.quota import Measure, day_of, month_begins
from edif.core.usage import UsageRow


@dataclass(slots=True)
class _Account:
    jobs: Counter[JobState] = field(default_factory=Counter)
    stored_bytes: int = 0
    seconds: dict[int, float] = field(default_factory=dict)  # by day, as what is below
    result_bytes: dict[int, float] = field(default_factory=dict)

    def spend(self, day: int, seconds: float, result_bytes: float) -> None:
        for spent, amount in ((self.seconds, seconds), (self.result_bytes, result_bytes)):
            spent[day] = spent.get(day, 0.0) + amount

    def used(self, today: int, month: int) -> dict[Measure, float]:
        for spent in (self.seconds, self.result_bytes):
            for day in [day for day in spent if day < month]:
                del spent[day]
        return {
            Measure.QUEUED_JOBS: self.jobs[JobState.QUEUED],
            Measure.RUNNING_JOBS: self.jobs[JobState.RUNNING],
            Measure.SECONDS_PER_DAY: self.seconds.get(today, 0.0),
            Measure.SECONDS_PER_MONTH: sum(self.seconds.values()),
            Measure.RESULT_BYTES_PER_DAY: self.result_bytes.get(today, 0.0),
            Measure.RESULT_BYTES_PER_MONTH: sum(self.result_bytes.values()),
            Measure.STORED_BYTES: self.stored_bytes,
        }


class Ledger:
    """
    Args:
        members: a group's users as of now. What a user has spent stays with the group in which it was spent; jobs and stored
            bytes go along with the user.
    """

    def __init__(self, members: Callable[[GroupName], Iterable[UserName]]) -> None:
        self._members = members
        self._users: defaultdict[UserName, _Account] = defaultdict(_Account)
        self._groups: defaultdict[GroupName, _Account] = defaultdict(_Account)

    def user_uses(self, user: UserName, now: float) -> dict[Measure, float]:
        """``now`` in Unix seconds; days and months are UTC."""
        return self._users[user].used(day_of(now), month_begins(now))

    def group_uses(self, group: GroupName, now: float) -> dict[Measure, float]:
        used = self.group_spent(group, now)
        for user in self._members(group):
            if (account := self._users.get(user)) is not None:
                used[Measure.QUEUED_JOBS] += account.jobs[JobState.QUEUED]
                used[Measure.RUNNING_JOBS] += account.jobs[JobState.RUNNING]
                used[Measure.STORED_BYTES] += account.stored_bytes
        return used

    def group_spent(self, group: GroupName, now: float) -> dict[Measure, float]:
        """As :meth:`group_uses`, without what the members hold now: it takes no time for each of them."""
        return self._groups[group].used(day_of(now), month_begins(now))

    def knows(self, user: UserName) -> bool:
        return user in self._users

    def count(self, spent: Iterable[UsageRow], stored: Mapping[UserName, int]) -> None:
        """Begin anew with what was spent and what is stored; jobs stay as they are counted."""
        for account in (*self._users.values(), *self._groups.values()):
            account.seconds, account.result_bytes, account.stored_bytes = {}, {}, 0
        for row in spent:
            self.spends(row.user, row.group, row.day, seconds=row.seconds, result_bytes=row.result_bytes)
        for owner, stored_bytes in stored.items():
            self.stores(owner, stored_bytes)

    def enters(self, owner: UserName, state: JobState) -> None:
        """A job of this owner is in an unfinished state: it was accepted, or found when the gateway started."""
        self._users[owner].jobs[state] += 1

    def moves(self, owner: UserName, before: JobState, after: JobState) -> None:
        """A job changed its state; one that ended counts no longer."""
        account = self._users[owner]
        account.jobs[before] -= 1
        if not after.final:
            account.jobs[after] += 1

    def spends(
        self, owner: UserName, group: GroupName | None, day: int, *, seconds: float, result_bytes: int
    ) -> None:
        self._users[owner].spend(day, seconds, result_bytes)
        if group is not None:
            self._groups[group].spend(day, seconds, result_bytes)

    def stores(self, owner: UserName, more_bytes: int) -> None:
        """Payloads and results that lie in the blob store; fewer, if negative."""
        self._users[owner].stored_bytes += more_bytes
