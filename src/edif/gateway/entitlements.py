"""What users and groups are entitled to, kept up to date: who they are, their shares, their quotas, what is sealed.

The record store is looked at every half second; the scheduler is told what changed as events.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from edif.core.audit import actor_user
from edif.core.ids import ANONYMOUS, LOCAL, GroupName, ModelId, UserName
from edif.core.people import People
from edif.core.quota import Measure, Quota, UsedUp, day_of, month_begins
from edif.core.users import Priority
from edif.gateway.admission import Admission
from edif.gateway.sealing import Sealing
from edif.models.catalogue import Catalogue
from edif.records.store import RecordStore
from edif.scheduler import events as ev
from edif.scheduler.claims import LimitMet

_CLASSES = {Priority.HIGH: 1, Priority.NORMAL: 0, Priority.LOW: -1}


class Entitlements:
    """
    Args:
        contact: whom users can ask for more.
    """

    def __init__(
        self, records: RecordStore, catalogue: Catalogue, sealing: Sealing, contact: str | None
    ) -> None:
        self._records = records
        self._catalogue = catalogue
        self._sealing = sealing
        self.admission = Admission(contact)
        self._slots: dict[ModelId, int] = {}
        self._told: dict[UserName, ev.Claim] = {}
        self._today = 0
        self._stale: set[UserName] = set()
        self._miscounted = False

    @property
    def people(self) -> People:
        return self.admission.people

    async def count(self, now: float, payload_bytes: Callable[[], Mapping[UserName, int]]) -> None:
        """Fill the ledger from the record store; no job may end meanwhile. ``now`` in Unix seconds.

        Args:
            payload_bytes: of the jobs that have not ended, as of the moment at which it is called.
        """
        spent = await self._records.usage(since=month_begins(now))
        stored = Counter(await self._records.stored_bytes())
        self.admission.ledger.count(spent, stored + Counter(payload_bytes()))
        self._miscounted = False
        self._stale |= set(self._told)

    @property
    def miscounted(self) -> bool:
        """Whether the ledger has under somebody's name what another person used, who was removed or erased."""
        return self._miscounted

    async def look(self, now: float) -> list[ev.Event]:
        """What the scheduler has to know of that changed since the last look."""
        revision = await self._records.people_revision()
        if revision != self.people.revision:
            before, now_known = self.people, await self._records.people()
            self.admission.people = now_known
            self._miscounted |= any(
                self.admission.ledger.knows(name)
                and ((known := before.users.get(name)) is None or known.id != user.id)
                for name, user in now_known.users.items()
            )
            self._sealing.any_user = bool(self.people.users)
            self._stale |= set(self._told)
        if day_of(now) != self._today:  # quotas of days and months are fresh
            self._today = day_of(now)
            self._stale |= set(self._told)
        return [*self._changed_slots(), *self._changed_claims(now)]

    def _changed_slots(self) -> Iterator[ev.Event]:
        for deployment in self._catalogue:
            model, slots = ModelId(deployment.spec.id), self._sealing.slots(deployment)
            if self._slots.get(model) != slots:
                self._slots[model] = slots
                yield ev.SlotsChanged(model, slots)

    def _changed_claims(self, now: float) -> Iterator[ev.Event]:
        stale, self._stale = self._stale, set()
        for user in sorted(stale):
            before = self._told[user]
            if (claim := self.claim(user, now)) != before:
                yield ev.ClaimChanged(claim)

    def claim(self, user: UserName, now: float) -> ev.Claim:
        """As the scheduler is told with this user's jobs. With a used-up quota none of them may begin."""
        people, standing = self.people, self.people.standing(user)
        group = people.group_of(user)
        in_group = group is not None and group in people.groups
        most = _most_running(people.user_quotas(user).get(Measure.RUNNING_JOBS))
        if self.admission.held_back(user, now) is not None:
            most = 0
        claim = self._told[user] = ev.Claim(
            user=user,
            # Two kinds of names: a user without a group is a group of one.
            group=f"group {group}" if in_group else f"user {user}",
            user_weight=standing.user_weight,
            group_weight=standing.group_weight,
            priority=_CLASSES[standing.priority],
            user_most_running=most,
            group_most_running=(
                _most_running(people.group_quotas(group).get(Measure.RUNNING_JOBS))
                if group is not None
                else None
            ),
        )
        return claim

    def spent(self, user: UserName, now: float) -> list[ev.Event]:
        """This user's quotas, and those of the group, may be used up now: what the scheduler has to know."""
        if self.people.quotas:
            group = self.people.group_of(user)
            self._stale |= {user} if group is None else self._companions(group)
        return list(self._changed_claims(now))

    def _companions(self, group: GroupName) -> set[UserName]:
        return {each for each in self.people.members.get(group, ()) if each in self._told}

    def waiting_for(self, user: UserName, now: float) -> str | None:
        """Why this user's jobs may not begin now, as a sentence; None if they may."""
        used_up = self.admission.held_back(user, now)
        return None if used_up is None else self.admission.sentence(used_up)

    def crowded(self, user: UserName, met: LimitMet) -> str | None:
        """Which quota of running jobs keeps this user's jobs waiting; None if there is no such quota any more."""
        group = self.people.group_of(user) if met.of_group else None
        quotas = self.people.user_quotas(user) if group is None else self.people.group_quotas(group)
        quota = quotas.get(Measure.RUNNING_JOBS)
        if quota is None or met.running < math.floor(quota.amount):
            return None
        return self.admission.sentence(UsedUp(quota, met.running, None))

    async def actor(self, user: UserName) -> str:
        """How the audit log names someone whom the gateway let in: people by id, never by name, others by what they are."""
        if user in (ANONYMOUS, LOCAL):
            return f"local:{user}"
        # Who was added or removed a moment ago is not among the people yet, or not any more.
        known = self.people.users.get(user) or await self._records.user(user)
        return "user:removed" if known is None else actor_user(known.id)


def _most_running(quota: Quota | None) -> int | None:
    return None if quota is None else math.floor(quota.amount)
