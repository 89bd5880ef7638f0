"""The laws of a job."""

import itertools

import msgspec
import pytest

from edif.core.job import (
    FINAL_STATES,
    LEGAL_TRANSITIONS,
    MAX_ATTEMPTS,
    AttemptOutcome,
    ClientStatus,
    Extras,
    JobState,
    states_before,
)

LEGAL = {
    (JobState.QUEUED, JobState.RUNNING),
    (JobState.QUEUED, JobState.FAILED),
    (JobState.QUEUED, JobState.CANCELLED),
    (JobState.RUNNING, JobState.QUEUED),
    (JobState.RUNNING, JobState.COMPLETED),
    (JobState.RUNNING, JobState.FAILED),
    (JobState.RUNNING, JobState.CANCELLED),
}


@pytest.mark.parametrize(("current", "new"), list(itertools.product(JobState, JobState)))
def test_only_these_transitions_are_legal(current: JobState, new: JobState) -> None:
    assert (current in states_before(new)) is ((current, new) in LEGAL)


def test_every_state_has_a_law() -> None:
    assert set(LEGAL_TRANSITIONS) == set(JobState)


def test_final_states_are_those_that_lead_nowhere() -> None:
    assert {state for state in JobState if not LEGAL_TRANSITIONS[state]} == FINAL_STATES
    assert {state for state in JobState if state.final} == FINAL_STATES


def test_job_never_ends_without_having_run_except_by_failing_or_cancelling() -> None:
    assert JobState.QUEUED not in states_before(JobState.COMPLETED)


def test_every_state_can_be_reached_and_every_job_can_end() -> None:
    reached = {JobState.QUEUED}
    while True:
        further = reached.union(*(LEGAL_TRANSITIONS[state] for state in reached))
        if further == reached:
            break
        reached = further
    assert reached == set(JobState)
    assert all(LEGAL_TRANSITIONS[state] & FINAL_STATES for state in JobState if not state.final)


def test_every_outcome_but_the_fabrics_failure_is_an_ending() -> None:
    finals = {state.value for state in FINAL_STATES}
    assert {outcome.value for outcome in AttemptOutcome} - finals == {AttemptOutcome.LOST.value}


def test_client_statuses_are_those_of_the_stock_client() -> None:
    from nnsight.schema.response import Status

    assert {status.value for status in ClientStatus} == {status.value for status in Status}


def test_a_job_is_tried_more_than_once_and_not_for_ever() -> None:
    assert 1 < MAX_ATTEMPTS < 10


def test_what_was_asked_for_before_merging_was_known_may_be_merged() -> None:
    assert msgspec.json.decode(b'{"packed":true,"uses":["j1"]}', type=Extras) == Extras(
        packed=True, uses=("j1",), merge=True
    )
