"""Everyone who may use the fabric, at one moment: users, groups, and the quotas that bind them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edif.core.ids import GroupName, UserName
from edif.core.quota import Measure, Quota, Scope
from edif.core.users import Group, Priority, User


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a user stands among those who wait for a model; see ``scheduler/shares.py`` for what weights do."""

    user_weight: float = 1.0
    group_weight: float = 1.0
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True)
class People:
    """
    Attributes:
        members: the users of each group that has any.
        revision: counts changes, as the record store does; a reader whose number is the same has nothing to read.
    """

    users: Mapping[UserName, User] = field(default_factory=dict)
    groups: Mapping[GroupName, Group] = field(default_factory=dict)
    quotas: Mapping[tuple[Scope, str], Mapping[Measure, Quota]] = field(default_factory=dict)
    members: Mapping[GroupName, Sequence[UserName]] = field(default_factory=dict)
    revision: int = 0

    @classmethod
    def of(
        cls,
        users: Iterable[User] = (),
        groups: Iterable[Group] = (),
        quotas: Iterable[Quota] = (),
        revision: int = 0,
    ) -> "People":
        named = {user.name: user for user in users}
        members: dict[GroupName, list[UserName]] = {}
        for user in named.values():
            if user.group is not None:
                members.setdefault(user.group, []).append(user.name)
        by_whom: dict[tuple[Scope, str], dict[Measure, Quota]] = {}
        for quota in quotas:
            by_whom.setdefault((quota.scope, quota.name), {})[quota.measure] = quota
        return cls(named, {group.name: group for group in groups}, by_whom, members, revision)

    def group_of(self, name: UserName) -> GroupName | None:
        user = self.users.get(name)
        return None if user is None else user.group

    def standing(self, name: UserName) -> Standing:
        """A user without a group weighs among the groups as much as by themselves."""
        user = self.users.get(name)
        if user is None:
            return Standing()
        group = None if user.group is None else self.groups.get(user.group)
        if group is None:
            return Standing(1.0, user.weight, user.priority or Priority.NORMAL)
        return Standing(user.weight, group.weight, user.priority or group.priority)

    def user_quotas(self, name: UserName) -> Mapping[Measure, Quota]:
        """What binds this user alone: their own, and for each measure without one, what binds each user."""
        each = self.quotas.get((Scope.EACH_USER, ""), {})
        return {**each, **self.quotas.get((Scope.USER, name), {})}

    def group_quotas(self, name: GroupName) -> Mapping[Measure, Quota]:
        """What binds all members of the group together."""
        return self.quotas.get((Scope.GROUP, name), {})
