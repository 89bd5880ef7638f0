"""Whose jobs are closed in, and how many run at once."""

import pytest

from edif.core.ids import ANONYMOUS, UserName
from edif.core.limits import DEFAULT_LIMITS, Isolation
from edif.gateway.sealing import Sealing
from edif.models.catalogue import Deployment
from edif.wire.link import ModelSpec

ADA = UserName("ada")


@pytest.mark.parametrize(
    ("isolation", "any_user", "owner", "sealed"),
    [
        (Isolation.AUTO, False, ANONYMOUS, False),
        (Isolation.AUTO, True, ANONYMOUS, True),
        (Isolation.AUTO, True, ADA, True),
        (Isolation.AUTO, False, ADA, True),  # the last user is gone, a job of hers is not
        (Isolation.SEALED, False, ANONYMOUS, True),
        (Isolation.SHARED, True, ADA, False),
    ],
)
def test_who_is_closed_in(isolation: Isolation, any_user: bool, owner: UserName, sealed: bool) -> None:
    sealing = Sealing(DEFAULT_LIMITS)
    sealing.any_user = any_user
    assert (sealing.cell(Deployment(ModelSpec("m/one"), isolation), owner) is not None) is sealed


@pytest.mark.parametrize(
    ("isolation", "any_user", "slots"),
    [
        (Isolation.AUTO, False, 1),
        (Isolation.AUTO, True, 3),
        (Isolation.SEALED, False, 3),
        (Isolation.SHARED, True, 1),
    ],
)
def test_only_sealed_jobs_run_at_once(isolation: Isolation, any_user: bool, slots: int) -> None:
    sealing = Sealing(DEFAULT_LIMITS)
    sealing.any_user = any_user
    assert sealing.slots(Deployment(ModelSpec("m/one"), isolation, sealed_at_once=3)) == slots
