"""What the scheduler decides, event by event."""

import pytest

from edif.core import errors
from edif.core.ids import AgentId, JobId, ModelId, ReplicaId
from edif.core.job import MAX_ATTEMPTS
from edif.scheduler import events as ev
from edif.scheduler.decide import PATIENCE_S, Scheduler

ONE, TWO = ModelId("m/one"), ModelId("m/two")
A, B = AgentId("a"), AgentId("b")
R1, R2, R3 = ReplicaId("p-1"), ReplicaId("p-2"), ReplicaId("p-3")
J1, J2, J3 = JobId("j1"), JobId("j2"), JobId("j3")


def told(scheduler: Scheduler, *events: ev.Event) -> list[ev.Action]:
    """Tell the events in turn; the answer is what the last one leads to."""
    actions: list[ev.Action] = []
    for event in events:
        actions = scheduler.handle(event, 0.0)
        scheduler.validate()
    return actions


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler((ONE, TWO), "p")


@pytest.fixture
def up(scheduler: Scheduler) -> Scheduler:
    """Agent A holds a ready replica R1 of model ONE, and nothing waits."""
    told(scheduler, ev.DeployAsked(ONE), ev.AgentJoined(A), ev.ReplicaBecameReady(R1))
    return scheduler


@pytest.fixture
def running(up: Scheduler) -> Scheduler:
    """Job J1 runs as attempt 1 on R1."""
    told(up, ev.JobQueued(J1, ONE))
    return up


# -- jobs ----------------------------------------------------------------------------------------------
def test_job_without_agents_waits_for_a_node(scheduler: Scheduler) -> None:
    assert told(scheduler, ev.JobQueued(J1, ONE)) == [ev.TellWaiting(J1, 1, loading=True)]
    assert scheduler.queue(ONE) == (J1,)
    assert scheduler.knows(J1)
    assert not scheduler.knows(J2)


def test_job_for_a_model_that_is_down_starts_a_replica(scheduler: Scheduler) -> None:
    told(scheduler, ev.AgentJoined(A))
    assert told(scheduler, ev.JobQueued(J1, ONE)) == [
        ev.StartReplica(A, R1, ONE),
        ev.TellWaiting(J1, 1, loading=True),
    ]


def test_job_for_a_ready_replica_begins_at_once(up: Scheduler) -> None:
    assert told(up, ev.JobQueued(J1, ONE)) == [ev.BeginAttempt(J1, 1, A, R1)]
    assert up.running_on(A) == [(J1, 1)]


def test_second_job_waits_behind_the_running_one(running: Scheduler) -> None:
    assert told(running, ev.JobQueued(J2, ONE)) == [ev.TellWaiting(J2, 1, loading=False)]
    assert told(running, ev.JobQueued(J3, ONE)) == [ev.TellWaiting(J3, 2, loading=False)]


def test_job_that_was_tried_before_goes_on_counting(up: Scheduler) -> None:
    assert told(up, ev.JobQueued(J1, ONE, attempts=2)) == [ev.BeginAttempt(J1, 3, A, R1)]


def test_same_job_queued_twice_is_one_job(scheduler: Scheduler) -> None:
    told(scheduler, ev.JobQueued(J1, ONE))
    assert told(scheduler, ev.JobQueued(J1, ONE)) == []
    assert scheduler.queue(ONE) == (J1,)


def test_models_do_not_share_queues_or_replicas(up: Scheduler) -> None:
    assert told(up, ev.JobQueued(J1, TWO)) == [
        ev.StartReplica(A, R2, TWO),
        ev.TellWaiting(J1, 1, loading=True),
    ]
    assert told(up, ev.ReplicaBecameReady(R2)) == [ev.BeginAttempt(J1, 1, A, R2), ev.TellPositions(TWO)]


def test_second_model_is_placed_on_the_emptier_agent(up: Scheduler) -> None:
    told(up, ev.AgentJoined(B))
    assert told(up, ev.DeployAsked(TWO)) == [ev.StartReplica(B, R2, TWO)]


# -- attempts ------------------------------------------------------------------------------------------
def test_end_of_an_attempt_frees_the_replica_for_the_next_in_order(running: Scheduler) -> None:
    told(running, ev.JobQueued(J2, ONE), ev.JobQueued(J3, ONE))
    assert told(running, ev.AttemptOver(J1, 1)) == [ev.BeginAttempt(J2, 1, A, R1), ev.TellPositions(ONE)]
    assert not running.knows(J1)


def test_lost_attempt_is_tried_again_before_later_jobs(running: Scheduler) -> None:
    told(running, ev.JobQueued(J2, ONE))
    assert told(running, ev.AttemptLost(J1, 1)) == [
        ev.RequeueJob(J1, 1),
        ev.BeginAttempt(J1, 2, A, R1),
        ev.TellPositions(ONE),
    ]


def test_job_is_given_up_after_its_last_try(running: Scheduler) -> None:
    for attempt in range(1, MAX_ATTEMPTS):
        assert ev.BeginAttempt(J1, attempt + 1, A, R1) in told(running, ev.AttemptLost(J1, attempt))
    last = told(running, ev.AttemptLost(J1, MAX_ATTEMPTS, "It was shot."))
    assert [type(action) for action in last] == [ev.FailJob]
    failure = last[0]
    assert isinstance(failure, ev.FailJob)
    assert (failure.job, failure.error, failure.attempt) == (J1, errors.REPLICA_LOST, MAX_ATTEMPTS)
    assert "It was shot." in failure.sentence
    assert not running.knows(J1)


@pytest.mark.parametrize("event", [ev.AttemptOver(J1, 1), ev.AttemptLost(J1, 1)])
def test_what_an_old_attempt_says_changes_nothing(running: Scheduler, event: ev.Event) -> None:
    told(running, ev.AttemptLost(J1, 1))
    assert told(running, event) == []
    assert running.running_on(A) == [(J1, 2)]


def test_what_an_attempt_says_while_its_job_waits_again_changes_nothing(running: Scheduler) -> None:
    told(running, ev.AgentLost(A))
    assert told(running, ev.AttemptOver(J1, 1)) == []
    assert running.queue(ONE) == (J1,)


def test_attempt_that_the_store_refuses_is_forgotten_and_the_next_begins(running: Scheduler) -> None:
    told(running, ev.JobQueued(J2, ONE))
    assert told(running, ev.AttemptRefused(J1)) == [ev.BeginAttempt(J2, 1, A, R1)]
    assert not running.knows(J1)


def test_refusal_of_a_job_that_does_not_run_changes_nothing(scheduler: Scheduler) -> None:
    told(scheduler, ev.JobQueued(J1, ONE))
    assert told(scheduler, ev.AttemptRefused(J1)) == []
    assert told(scheduler, ev.AttemptRefused(J2)) == []
    assert scheduler.queue(ONE) == (J1,)


# -- cancelling ----------------------------------------------------------------------------------------
def test_cancelled_while_waiting_ends_at_once(running: Scheduler) -> None:
    told(running, ev.JobQueued(J2, ONE))
    assert told(running, ev.CancelAsked(J2)) == [ev.CancelJob(J2), ev.TellPositions(ONE)]
    assert told(running, ev.AttemptOver(J1, 1)) == []


def test_cancelled_while_running_is_stopped_and_ends_with_its_attempt(running: Scheduler) -> None:
    assert told(running, ev.CancelAsked(J1)) == [ev.StopAttempt(J1, 1, A)]
    assert running.knows(J1)
    assert told(running, ev.AttemptOver(J1, 1)) == []
    assert not running.knows(J1)


def test_cancelled_job_whose_attempt_is_lost_is_not_tried_again(running: Scheduler) -> None:
    told(running, ev.CancelAsked(J1))
    assert told(running, ev.AttemptLost(J1, 1)) == [ev.CancelJob(J1, 1)]
    assert not running.knows(J1)


def test_cancelled_job_on_a_lost_agent_is_not_tried_again(running: Scheduler) -> None:
    told(running, ev.CancelAsked(J1), ev.AgentAway(A))
    assert ev.CancelJob(J1, 1) in told(running, ev.AgentLost(A))


def test_cancellation_is_repeated_to_an_agent_that_may_not_have_heard_it(running: Scheduler) -> None:
    told(running, ev.AgentAway(A), ev.CancelAsked(J1))
    back = ev.AgentJoined(A, (ev.HeldReplica(R1, ONE, ready=True),), frozenset({(J1, 1)}))
    assert told(running, back) == [ev.StopAttempt(J1, 1, A)]


def test_cancelling_an_unknown_or_ended_job_does_nothing(running: Scheduler) -> None:
    told(running, ev.AttemptOver(J1, 1))
    assert told(running, ev.CancelAsked(J1)) == []


# -- agents --------------------------------------------------------------------------------------------
def test_absent_agent_gets_no_work_and_keeps_what_it_has(running: Scheduler) -> None:
    assert told(running, ev.AgentAway(A)) == []
    told(running, ev.AttemptOver(J1, 1))
    assert told(running, ev.JobQueued(J2, ONE)) == [ev.TellWaiting(J2, 1, loading=False)]
    back = ev.AgentJoined(A, (ev.HeldReplica(R1, ONE, ready=True),))
    assert told(running, back) == [ev.BeginAttempt(J2, 1, A, R1)]


def test_agent_that_comes_back_with_its_work_goes_on(running: Scheduler) -> None:
    told(running, ev.AgentAway(A))
    back = ev.AgentJoined(A, (ev.HeldReplica(R1, ONE, ready=True),), frozenset({(J1, 1)}))
    assert told(running, back) == []
    assert running.running_on(A) == [(J1, 1)]


def test_agent_that_comes_back_without_the_attempt_gets_it_again(running: Scheduler) -> None:
    back = ev.AgentJoined(A, (ev.HeldReplica(R1, ONE, ready=True),))
    assert told(running, back) == [ev.RequeueJob(J1, 1), ev.BeginAttempt(J1, 2, A, R1)]


def test_agent_that_comes_back_without_the_replica_starts_another(running: Scheduler) -> None:
    assert told(running, ev.AgentJoined(A)) == [ev.RequeueJob(J1, 1), ev.StartReplica(A, R2, ONE)]


def test_work_of_a_lost_agent_moves_to_another(running: Scheduler) -> None:
    told(running, ev.AgentJoined(B), ev.AgentAway(A))
    assert told(running, ev.AgentLost(A)) == [ev.RequeueJob(J1, 1), ev.StartReplica(B, R2, ONE)]
    assert told(running, ev.AgentLost(A)) == []


def test_agent_lost_while_its_replica_loads_makes_the_model_load_elsewhere(scheduler: Scheduler) -> None:
    told(scheduler, ev.AgentJoined(A), ev.JobQueued(J1, ONE), ev.AgentJoined(B))
    assert told(scheduler, ev.AgentLost(A)) == [ev.StartReplica(B, R2, ONE)]
    assert told(scheduler, ev.ReplicaBecameReady(R1)) == []
    assert told(scheduler, ev.ReplicaBecameReady(R2)) == [
        ev.BeginAttempt(J1, 1, B, R2),
        ev.TellPositions(ONE),
    ]


def test_replica_that_an_unknown_agent_brings_is_used(scheduler: Scheduler) -> None:
    told(scheduler, ev.JobQueued(J1, ONE))
    assert told(scheduler, ev.AgentJoined(A, (ev.HeldReplica(R3, ONE, ready=True),))) == [
        ev.BeginAttempt(J1, 1, A, R3)
    ]


def test_loading_replica_that_an_agent_brings_is_waited_for(scheduler: Scheduler) -> None:
    told(scheduler, ev.JobQueued(J1, ONE))
    assert told(scheduler, ev.AgentJoined(A, (ev.HeldReplica(R3, ONE, ready=False),))) == []
    assert ev.BeginAttempt(J1, 1, A, R3) in told(scheduler, ev.ReplicaBecameReady(R3))


def test_replica_of_a_model_that_is_not_served_is_stopped(scheduler: Scheduler) -> None:
    other = ev.HeldReplica(R3, ModelId("m/other"), ready=True)
    assert told(scheduler, ev.AgentJoined(A, (other,))) == [ev.StopReplica(A, R3)]


def test_replica_that_got_ready_while_its_agent_was_away_is_used(scheduler: Scheduler) -> None:
    told(scheduler, ev.AgentJoined(A), ev.JobQueued(J1, ONE), ev.AgentAway(A))
    back = ev.AgentJoined(A, (ev.HeldReplica(R1, ONE, ready=True),))
    assert told(scheduler, back) == [ev.BeginAttempt(J1, 1, A, R1)]


# -- replicas ------------------------------------------------------------------------------------------
def test_model_that_cannot_load_fails_those_who_wait_and_is_not_tried_for_ever(scheduler: Scheduler) -> None:
    told(scheduler, ev.DeployAsked(ONE), ev.AgentJoined(A), ev.JobQueued(J1, ONE), ev.JobQueued(J2, ONE))
    assert told(scheduler, ev.ReplicaFailed(R1, "No such folder.")) == [
        ev.FailJob(J1, errors.MODEL_LOAD_FAILED, "No such folder."),
        ev.FailJob(J2, errors.MODEL_LOAD_FAILED, "No such folder."),
    ]
    assert told(scheduler, ev.JobQueued(J3, ONE))[0] == ev.StartReplica(A, R2, ONE)


def test_death_while_loading_is_no_word_against_the_model_and_loading_is_tried_again(
    scheduler: Scheduler,
) -> None:
    told(scheduler, ev.DeployAsked(ONE), ev.AgentJoined(A), ev.JobQueued(J1, ONE))
    assert told(scheduler, ev.ReplicaFailed(R1, "Killed.", died=True)) == [ev.StartReplica(A, R2, ONE)]
    assert told(scheduler, ev.ReplicaFailed(R2, "Killed.", died=True)) == [ev.StartReplica(A, R3, ONE)]
    assert told(scheduler, ev.ReplicaFailed(R3, "Killed.", died=True)) == [
        ev.FailJob(J1, errors.MODEL_LOAD_FAILED, "Killed.")
    ], "three in a row: it is the model's doing after all"


def test_deaths_are_counted_from_the_last_replica_that_was_ready(scheduler: Scheduler) -> None:
    told(scheduler, ev.DeployAsked(ONE), ev.AgentJoined(A))
    for number in range(1, 12, 2):
        told(scheduler, ev.ReplicaFailed(ReplicaId(f"p-{number}"), "Killed.", died=True))
        told(scheduler, ev.ReplicaBecameReady(ReplicaId(f"p-{number + 1}")))
        told(scheduler, ev.JobQueued(JobId(f"again{number}"), ONE))
        last = told(scheduler, ev.ReplicaFailed(ReplicaId(f"p-{number + 1}"), "Killed.", died=True))
        assert any(isinstance(action, ev.StartReplica) for action in last)


def test_failed_loading_beside_a_ready_replica_fails_nobody(running: Scheduler) -> None:
    told(running, ev.JobQueued(J2, ONE))
    told(running, ev.AgentJoined(B, (ev.HeldReplica(R3, ONE, ready=False),)))
    assert told(running, ev.ReplicaFailed(R3, "No memory.")) == []
    assert told(running, ev.AttemptOver(J1, 1)) == [ev.BeginAttempt(J2, 1, A, R1)]


def test_replica_that_dies_under_a_job_is_replaced_and_the_job_tried_again(running: Scheduler) -> None:
    assert told(running, ev.ReplicaFailed(R1, "It died.")) == [
        ev.RequeueJob(J1, 1),
        ev.StartReplica(A, R2, ONE),
    ]
    assert told(running, ev.ReplicaFailed(R1, "It died.")) == []
    assert told(running, ev.AttemptLost(J1, 1)) == []


def test_evicted_replica_stops_when_its_job_is_done(running: Scheduler) -> None:
    assert told(running, ev.EvictAsked(ONE)) == []
    assert told(running, ev.AttemptOver(J1, 1)) == [ev.StopReplica(A, R1)]
    assert told(running, ev.ReplicaStopped(R1)) == []
    assert told(running, ev.ReplicaStopped(R1)) == []


def test_idle_replica_is_evicted_once(up: Scheduler) -> None:
    assert told(up, ev.EvictAsked(ONE)) == [ev.StopReplica(A, R1)]
    assert told(up, ev.EvictAsked(ONE)) == []


def test_replica_evicted_while_loading_is_stopped_even_if_it_gets_ready(scheduler: Scheduler) -> None:
    told(scheduler, ev.DeployAsked(ONE), ev.AgentJoined(A))
    assert told(scheduler, ev.EvictAsked(ONE)) == [ev.StopReplica(A, R1)]
    assert told(scheduler, ev.JobQueued(J1, ONE)) == [ev.TellWaiting(J1, 1, loading=True)]
    assert told(scheduler, ev.ReplicaBecameReady(R1)) == [ev.TellPositions(ONE)]
    assert told(scheduler, ev.ReplicaStopped(R1)) == [ev.StartReplica(A, R2, ONE)]


def test_model_deployed_again_while_it_stops_comes_back(up: Scheduler) -> None:
    told(up, ev.EvictAsked(ONE))
    assert told(up, ev.DeployAsked(ONE)) == []
    assert told(up, ev.ReplicaStopped(R1)) == [ev.StartReplica(A, R2, ONE)]


def test_order_to_stop_is_repeated_to_an_agent_that_may_not_have_heard_it(up: Scheduler) -> None:
    """Found by the random worlds: without it the replica hangs, and with it every later job of the model."""
    told(up, ev.AgentAway(A), ev.EvictAsked(ONE))
    held = ev.HeldReplica(R1, ONE, ready=True)
    assert told(up, ev.AgentJoined(A, (held,))) == [ev.StopReplica(A, R1)]
    assert told(up, ev.JobQueued(J1, ONE)) == [ev.TellWaiting(J1, 1, loading=True)]
    assert told(up, ev.ReplicaStopped(R1)) == [ev.StartReplica(A, R2, ONE)]


def test_order_to_stop_is_not_repeated_under_a_running_job(running: Scheduler) -> None:
    told(running, ev.EvictAsked(ONE))
    back = ev.AgentJoined(A, (ev.HeldReplica(R1, ONE, ready=True),), frozenset({(J1, 1)}))
    assert told(running, back) == []
    assert told(running, ev.AttemptOver(J1, 1)) == [ev.StopReplica(A, R1)]


def test_order_to_stop_is_said_once_when_the_agent_comes_back_without_the_attempt(running: Scheduler) -> None:
    told(running, ev.EvictAsked(ONE))
    back = ev.AgentJoined(A, (ev.HeldReplica(R1, ONE, ready=True),))
    assert told(running, back) == [ev.StopReplica(A, R1), ev.RequeueJob(J1, 1)]


def test_deployed_model_is_kept_up_without_jobs(scheduler: Scheduler) -> None:
    assert told(scheduler, ev.DeployAsked(ONE)) == []
    assert told(scheduler, ev.AgentJoined(A)) == [ev.StartReplica(A, R1, ONE)]
    told(scheduler, ev.ReplicaBecameReady(R1))
    assert told(scheduler, ev.ReplicaFailed(R1, "It died.")) == [ev.StartReplica(A, R2, ONE)]


# -- order of arrival ----------------------------------------------------------------------------------
def test_jobs_lost_together_wait_in_the_order_in_which_they_came(running: Scheduler) -> None:
    """Found by the random worlds: the job lost last used to overtake the older one."""
    told(running, ev.AgentJoined(B, (ev.HeldReplica(R3, ONE, ready=True),)), ev.JobQueued(J2, ONE))
    assert running.running_on(B) == [(J2, 1)]
    told(running, ev.AgentLost(A), ev.AgentLost(B))
    assert running.queue(ONE) == (J1, J2)


# -- after a restart of the gateway --------------------------------------------------------------------
REMEMBERED = ev.AttemptRemembered(J1, ONE, 2, A, ReplicaId("old-7"))


def test_remembered_attempt_goes_on_when_its_agent_comes_back(scheduler: Scheduler) -> None:
    told(scheduler, REMEMBERED, ev.JobQueued(J2, ONE))
    held = ev.HeldReplica(ReplicaId("old-7"), ONE, ready=True)
    assert told(scheduler, ev.AgentJoined(A, (held,), frozenset({(J1, 2)}))) == []
    assert told(scheduler, ev.AttemptOver(J1, 2)) == [ev.BeginAttempt(J2, 1, A, ReplicaId("old-7"))]


def test_remembered_attempt_of_an_agent_that_stays_away_is_tried_elsewhere(scheduler: Scheduler) -> None:
    told(scheduler, REMEMBERED, ev.JobQueued(J2, ONE), ev.AgentJoined(B))
    assert told(scheduler, ev.AgentLost(A)) == [ev.RequeueJob(J1, 2), ev.StartReplica(B, R1, ONE)]
    assert scheduler.queue(ONE) == (J1, J2)


def test_names_of_replicas_differ_between_gateways() -> None:
    first, second = Scheduler((ONE,), "g1"), Scheduler((ONE,), "g2")
    started = [told(s, ev.AgentJoined(A), ev.DeployAsked(ONE))[0] for s in (first, second)]
    assert started == [
        ev.StartReplica(A, ReplicaId("g1-1"), ONE),
        ev.StartReplica(A, ReplicaId("g2-1"), ONE),
    ]


# -- questions -----------------------------------------------------------------------------------------
def test_view_counts_replicas_and_waiting_jobs(running: Scheduler) -> None:
    told(running, ev.JobQueued(J2, ONE), ev.DeployAsked(TWO))
    views = {view.model: (view.ready, view.loading, view.queued) for view in running.view()}
    assert views == {ONE: (1, 0, 1), TWO: (0, 1, 0)}
    assert (running.loading(ONE), running.loading(TWO)) == (False, True)
    assert (running.model_of(R2), running.model_of(R3)) == (TWO, None)
    assert running.running_on(B) == []


# -- several jobs on one replica -----------------------------------------------------------------------
@pytest.fixture
def two_run(running: Scheduler) -> Scheduler:
    """Jobs J1 and J2 run on R1, which has two slots; J3 waits."""
    told(running, ev.SlotsChanged(ONE, 2), ev.JobQueued(J2, ONE), ev.JobQueued(J3, ONE))
    return running


def test_a_replica_takes_as_many_jobs_as_it_has_slots(two_run: Scheduler) -> None:
    assert two_run.running_on(A) == [(J1, 1), (J2, 1)]
    assert two_run.queue(ONE) == (J3,)


def test_another_slot_lets_the_next_job_begin_at_once(two_run: Scheduler) -> None:
    assert told(two_run, ev.SlotsChanged(ONE, 3)) == [ev.BeginAttempt(J3, 1, A, R1)]


def test_with_fewer_slots_what_runs_runs_on_and_the_next_waits(two_run: Scheduler) -> None:
    assert told(two_run, ev.SlotsChanged(ONE, 1)) == []
    assert told(two_run, ev.AttemptOver(J2, 1)) == []
    assert told(two_run, ev.AttemptOver(J1, 1)) == [ev.BeginAttempt(J3, 1, A, R1)]


def test_an_evicted_replica_stops_after_its_last_job(two_run: Scheduler) -> None:
    assert told(two_run, ev.EvictAsked(ONE)) == []
    assert told(two_run, ev.AttemptOver(J1, 1)) == []
    assert ev.StopReplica(A, R1) in told(two_run, ev.AttemptOver(J2, 1))


def test_jobs_of_a_lost_replica_wait_in_their_old_order(two_run: Scheduler) -> None:
    actions = told(two_run, ev.ReplicaFailed(R1, "It broke."))
    assert actions[:2] == [ev.RequeueJob(J1, 1), ev.RequeueJob(J2, 1)]
    assert two_run.queue(ONE) == (J1, J2, J3)


# -- validate is itself able to fail -------------------------------------------------------------------
def test_validate_notices_a_job_that_is_queued_twice(running: Scheduler) -> None:
    running._models[ONE].shares.join(J1, ev.ANYONE, 1, 0.0)
    with pytest.raises(AssertionError, match="waits and runs"):
        running.validate()


def test_validate_notices_a_lost_job(running: Scheduler) -> None:
    running._fleet.replica(R1).jobs.clear()
    with pytest.raises(AssertionError, match="neither queued nor running"):
        running.validate()


# -- shares --------------------------------------------------------------------------------------------
ANN, BOB = ev.Claim("ann"), ev.Claim("bob")
J4, J5 = JobId("j4"), JobId("j5")


def test_a_second_user_does_not_wait_behind_the_flood_of_the_first(up: Scheduler) -> None:
    told(up, *(ev.JobQueued(job, ONE, claim=ANN) for job in (J1, J2, J3)))
    assert told(up, ev.JobQueued(J4, ONE, claim=BOB)) == [
        ev.TellWaiting(J4, 3, loading=False),
        ev.TellPositions(ONE),
    ]
    assert up.queue(ONE) == (J4, J2, J3)
    assert told(up, ev.AttemptOver(J1, 1, 2.0))[0] == ev.BeginAttempt(J4, 1, A, R1)


def test_what_a_job_cost_counts_for_the_next_choice(up: Scheduler) -> None:
    told(up, ev.SlotsChanged(ONE, 2), ev.JobQueued(J1, ONE, claim=ANN), ev.JobQueued(J2, ONE, claim=BOB))
    told(up, *(ev.JobQueued(job, ONE, claim=ANN) for job in (J3, J4)), ev.JobQueued(J5, ONE, claim=BOB))
    assert told(up, ev.AttemptOver(J1, 1, 60.0))[0] == ev.BeginAttempt(J5, 1, A, R1)


def test_an_operators_word_holds_for_what_waits(up: Scheduler) -> None:
    told(up, *(ev.JobQueued(job, ONE, claim=ANN) for job in (J1, J2)), ev.JobQueued(J3, ONE, claim=BOB))
    assert told(up, ev.ClaimChanged(ev.Claim("bob", user_most_running=0))) == [ev.TellPositions(ONE)]
    assert told(up, ev.AttemptOver(J1, 1, 1.0))[0] == ev.BeginAttempt(J2, 1, A, R1)
    assert told(up, ev.AttemptOver(J2, 1, 1.0)) == []
    assert up.queue(ONE) == (J3,)
    assert told(up, ev.ClaimChanged(BOB)) == [ev.BeginAttempt(J3, 1, A, R1)]


def test_a_limit_counts_jobs_on_all_models_and_its_end_is_noticed_on_all(up: Scheduler) -> None:
    told(up, ev.DeployAsked(TWO), ev.ReplicaBecameReady(R2))
    limited = ev.Claim("ann", user_most_running=1)
    told(up, ev.JobQueued(J1, ONE, claim=limited))
    assert told(up, ev.JobQueued(J2, TWO, claim=limited)) == [ev.TellWaiting(J2, 1, loading=False)]
    assert told(up, ev.AttemptOver(J1, 1, 1.0)) == [ev.BeginAttempt(J2, 1, A, R2)]


def test_a_limit_is_free_again_when_the_replica_under_the_job_dies(up: Scheduler) -> None:
    told(up, ev.DeployAsked(TWO), ev.ReplicaBecameReady(R2))
    limited = ev.Claim("ann", user_most_running=1)
    told(up, ev.JobQueued(J1, ONE, claim=limited), ev.JobQueued(J2, TWO, claim=limited))
    assert ev.BeginAttempt(J2, 1, A, R2) in told(up, ev.ReplicaFailed(R1, "It died."))
    assert up.queue(ONE) == (J1,)


def test_time_alone_lifts_a_job_that_has_waited_long_enough(up: Scheduler) -> None:
    urgent = ev.Claim("bob", priority=1)
    told(up, ev.JobQueued(J1, ONE, claim=urgent), ev.JobQueued(J2, ONE, claim=ANN))
    told(up, ev.JobQueued(J3, ONE, claim=urgent), ev.JobQueued(J4, ONE, claim=urgent))
    assert up.queue(ONE) == (J3, J4, J2)
    assert up.handle(ev.Tick(), PATIENCE_S - 1) == []
    assert up.handle(ev.Tick(), PATIENCE_S) == [ev.TellPositions(ONE)]
    assert up.queue(ONE) == (J2, J3, J4)


def test_a_start_is_expected_when_those_before_have_had_their_time(up: Scheduler) -> None:
    told(up, ev.JobQueued(J1, ONE), ev.AttemptOver(J1, 1, 8.0))
    told(up, *(ev.JobQueued(job, ONE) for job in (J2, J3, J4)))
    assert [(each.job, each.in_s) for each in up.forecast(ONE, 3.0)] == [(J3, 5.0), (J4, 13.0)]
    assert [each.in_s for each in up.forecast(ONE, 30.0)] == [0.0, 8.0]


# -- draining ------------------------------------------------------------------------------------------
def test_while_the_fabric_drains_what_runs_ends_and_what_waits_waits(running: Scheduler) -> None:
    assert told(running, ev.DrainAsked()) == []
    assert running.draining
    assert told(running, ev.JobQueued(J2, ONE)) == [ev.TellWaiting(J2, 1, loading=False)]
    assert [each.in_s for each in running.forecast(ONE, 0.0)] == [None]
    assert told(running, ev.JobQueued(J3, ONE), ev.CancelAsked(J3))[0] == ev.CancelJob(J3)
    assert (running.running(), told(running, ev.AttemptOver(J1, 1)), running.running()) == (1, [], 0)
    assert told(running, ev.DrainEnded()) == [ev.BeginAttempt(J2, 1, A, R1)]
    assert not running.draining


def test_no_replica_is_started_while_the_fabric_drains(scheduler: Scheduler) -> None:
    told(scheduler, ev.DrainAsked(), ev.AgentJoined(A))
    assert told(scheduler, ev.DeployAsked(ONE)) == []
    assert told(scheduler, ev.JobQueued(J1, TWO)) == [ev.TellWaiting(J1, 1, loading=True)]
    assert told(scheduler, ev.DrainEnded()) == [ev.StartReplica(A, R1, ONE), ev.StartReplica(A, R2, TWO)]
