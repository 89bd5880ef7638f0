"""Whose jobs are closed in, which are merged, and how many run at once."""

import pytest

from edif.core.ids import ANONYMOUS, ModelId, UserName, new_job_id
from edif.core.job import Extras, Job
from edif.core.limits import DEFAULT_LIMITS, Isolation
from edif.gateway.sealing import Sealing
from edif.models.catalogue import Deployment
from edif.wire.link import Merging, ModelSpec

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


@pytest.mark.parametrize(
    ("isolation", "sealed_at_once", "slots"),
    [
        (Isolation.SEALED, 3, 16),
        (Isolation.SEALED, 20, 20),
        (Isolation.SHARED, 3, 16),
        (Isolation.SHARED, 20, 16),
    ],
)
def test_where_traces_are_merged_a_replica_takes_as_many_jobs_as_a_pass_has_room_for(
    isolation: Isolation, sealed_at_once: int, slots: int
) -> None:
    merging = Merging(rows=16, tokens=100, tolerance=1.0, alone_at_once=sealed_at_once)
    deployment = Deployment(ModelSpec("m/one"), isolation, sealed_at_once, merging)
    assert Sealing(DEFAULT_LIMITS).slots(deployment) == slots


@pytest.mark.parametrize("merging", [None, Merging(16, 100, 1.0, 1)])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_job_is_merged_where_operator_and_client_want_it(merging: Merging | None, wanted: bool) -> None:
    job = Job(new_job_id(), ADA, ModelId("m/one"), "k", False, {}, 1, 1.0, extras=Extras(merge=wanted))
    merges = Sealing(DEFAULT_LIMITS).merges(Deployment(ModelSpec("m/one"), merging=merging), job)
    assert merges is (wanted and merging is not None)
