"""Who stands where, and which quota binds whom."""

import pytest

from edif.core.ids import GroupName, UserName
from edif.core.people import People, Standing
from edif.core.quota import Measure, Quota, Scope
from edif.core.users import Group, Priority, Role, User

ADA, BOB, EVE = UserName("ada"), UserName("bob"), UserName("eve")
LAB = GroupName("lab")


def user(
    name: UserName, group: GroupName | None = None, weight: float = 1.0, priority: Priority | None = None
) -> User:
    return User(name, Role.RESEARCHER, 0.0, group=group, weight=weight, priority=priority)


PEOPLE = People.of(
    users=[user(ADA, LAB, 2.0), user(BOB, LAB, priority=Priority.HIGH), user(EVE, weight=3.0)],
    groups=[Group(LAB, 0.0, weight=5.0, priority=Priority.LOW)],
    quotas=[
        Quota(Scope.EACH_USER, "", Measure.QUEUED_JOBS, 10),
        Quota(Scope.EACH_USER, "", Measure.STORED_BYTES, 100),
        Quota(Scope.USER, ADA, Measure.QUEUED_JOBS, 50),
        Quota(Scope.GROUP, LAB, Measure.QUEUED_JOBS, 40),
    ],
)


@pytest.mark.parametrize(
    ("name", "standing"),
    [
        (ADA, Standing(2.0, 5.0, Priority.LOW)),
        (BOB, Standing(1.0, 5.0, Priority.HIGH)),
        (EVE, Standing(1.0, 3.0, Priority.NORMAL)),
        (UserName("nobody"), Standing()),
    ],
    ids=["a group's class", "a class of their own", "no group", "not known"],
)
def test_where_a_user_stands(name: UserName, standing: Standing) -> None:
    assert PEOPLE.standing(name) == standing


def test_a_group_that_is_not_there_any_more_is_no_group() -> None:
    people = People.of(users=[user(ADA, GroupName("gone"), 2.0)])
    assert people.standing(ADA) == Standing(1.0, 2.0)


def test_a_users_own_quota_counts_and_else_that_of_each_user() -> None:
    amounts = {measure: quota.amount for measure, quota in PEOPLE.user_quotas(ADA).items()}
    assert amounts == {Measure.QUEUED_JOBS: 50, Measure.STORED_BYTES: 100}
    assert PEOPLE.user_quotas(EVE)[Measure.QUEUED_JOBS].amount == 10
    assert PEOPLE.group_quotas(LAB)[Measure.QUEUED_JOBS].amount == 40
    assert not PEOPLE.group_quotas(GroupName("gone"))
