"""Whether a user may send another job now, and whether those that wait may run: quotas, of the user and the group."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from edif.core import errors
from edif.core.errors import OverLimit
from edif.core.ids import UserName
from edif.core.people import People
from edif.core.quota import HELD, SPENT, Measure, Quota, Scope, UsedUp, first_used_up, frees_at
from edif.gateway.ledger import Ledger

_WHAT = {
    Measure.QUEUED_JOBS: "jobs in the queue",
    Measure.RUNNING_JOBS: "jobs at once",
    Measure.SECONDS_PER_DAY: "seconds of computing a day",
    Measure.SECONDS_PER_MONTH: "seconds of computing a month",
    Measure.RESULT_BYTES_PER_DAY: "of results a day",
    Measure.RESULT_BYTES_PER_MONTH: "of results a month",
    Measure.STORED_BYTES: "of stored payloads and results",
}
_FREES = {
    Measure.QUEUED_JOBS: "It frees when a job of {whose} begins, ends or is cancelled.",
    Measure.RUNNING_JOBS: "It frees when a job of {whose} ends.",
    Measure.STORED_BYTES: "It frees when results of {whose} reach the end of their retention time.",
}


class Admission:
    """
    Args:
        contact: whom a user can ask for more, as the operator wrote it.

    Attributes:
        people: as of now; whoever watches the record store replaces it.
    """

    def __init__(self, contact: str | None = None) -> None:
        self.people = People()
        self.ledger = Ledger(lambda group: self.people.members.get(group, ()))
        self._contact = contact

    def check(self, user: UserName, now: float) -> None:
        """
        Raises:
            OverLimit: a quota leaves no room for another job of this user. ``now`` is in Unix seconds.
        """
        used_up = next(self._used_up(user, (*HELD, *SPENT), now), None)
        if used_up is not None:
            raise OverLimit(errors.QUOTA_USED_UP, self.sentence(used_up), self._whom_to_ask())

    def held_back(self, user: UserName, now: float) -> UsedUp | None:
        """The quota for whose sake this user's waiting jobs may not begin."""
        return next(self._used_up(user, SPENT, now), None)

    def view(self, user: UserName, now: float) -> dict[str, Any]:
        """Limit, use and hour of freeing of each measure, for the user and for the group (None without one)."""
        group = self.people.group_of(user)
        own = _view(self.people.user_quotas(user), self.ledger.user_uses(user, now), now)
        if group is None:
            return {"user": own, "group": None}
        uses = self.ledger.group_uses(group, now)
        return {"user": own, "group": _view(self.people.group_quotas(group), uses, now)}

    def _used_up(self, user: UserName, measures: tuple[Measure, ...], now: float) -> Iterator[UsedUp]:
        if own := self.people.user_quotas(user):
            used = self.ledger.user_uses(user, now)
            if found := first_used_up(own, used, measures, now):
                yield found
        group = self.people.group_of(user)
        if group is not None and (shared := self.people.group_quotas(group)):
            uses = self.ledger.group_spent if measures is SPENT else self.ledger.group_uses
            used = uses(group, now)
            if found := first_used_up(shared, used, measures, now):
                yield found

    def sentence(self, used_up: UsedUp) -> str:
        """Which limit, how much is used, and when it frees."""
        quota = used_up.quota
        of_group = quota.scope is Scope.GROUP
        whose = f"your group {quota.name}" if of_group else "yours"
        owner = f"The quota of {whose}" if of_group else "Your quota"
        limit, used = (_amount(value, quota.measure) for value in (quota.amount, used_up.used))
        if used_up.frees_at is None:
            frees = _FREES[quota.measure].format(whose=whose)
        else:
            frees = f"It frees at {datetime.fromtimestamp(used_up.frees_at, UTC):%Y-%m-%d %H:%M} UTC."
        return f"{owner}, {limit} {_WHAT[quota.measure]}, is used up ({used} now). {frees}"

    def _whom_to_ask(self) -> str | None:
        return f"If you need more, ask {self._contact}." if self._contact else None


def _view(
    quotas: Mapping[Measure, Quota], used: Mapping[Measure, float], now: float
) -> dict[str, dict[str, float | None]]:
    return {
        measure.value: {
            "limit": quotas[measure].amount if measure in quotas else None,
            "used": used[measure],
            "frees_at": frees_at(measure, now),
        }
        for measure in Measure
    }


def _amount(value: float, measure: Measure) -> str:
    if measure.in_bytes:
        return f"{value / 2**20:,.0f} MiB"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
