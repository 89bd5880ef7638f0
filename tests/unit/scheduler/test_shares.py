"""Who is next among the jobs of one model: the laws of fair sharing, as properties."""

from math import inf

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from edif.core.ids import JobId
from edif.scheduler.claims import Claims, Entitlement
from edif.scheduler.events import Claim
from edif.scheduler.fair import Flow
from edif.scheduler.forecast import forecast
from edif.scheduler.shares import Shares, Ticket
from tests.sizes import SIZES
from tests.unit.scheduler.service import Person, Service

weights = st.sampled_from([0.5, 1.0, 2.0, 5.0])
costs = st.lists(st.sampled_from([0.05, 0.3, 1.0, 2.5, 12.0]), min_size=1, max_size=4).map(tuple)
bursts = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 5.0, 30.0]), st.sampled_from([1, 4, 15, 40])), min_size=1, max_size=3
).map(tuple)
limits = st.one_of(st.none(), st.none(), st.integers(1, 3))


@st.composite
def services(draw: st.DrawFn, **fixed: object) -> Service:
    """Two to six people in one to three groups, who flood or come and go, on one slot or on several."""
    groups = [f"g{n}" for n in range(draw(st.integers(1, 3)))]
    limited = draw(st.booleans())
    people = [
        Person(
            f"u{n}",
            draw(st.sampled_from(groups)),
            draw(weights),
            draw(bursts),
            draw(costs),
            draw(limits) if limited else None,
        )
        for n in range(draw(st.integers(2, 6)))
    ]
    of_groups = {group: draw(limits) for group in groups} if limited else {}
    options: dict[str, object] = {
        "slots": draw(st.sampled_from([1, 1, 2, 3, 8])),
        "group_weights": {group: draw(weights) for group in groups},
        "group_limits": {group: limit for group, limit in of_groups.items() if limit},
        "learns": draw(st.booleans()),
        "lose_every": draw(st.sampled_from([0, 0, 3])),
        "cancel_every": draw(st.sampled_from([0, 0, 4])),
    }
    return Service(people, **(options | fixed))  # type: ignore[arg-type]


@given(services())
@settings(max_examples=SIZES.examples)
def test_nobody_with_demand_gets_less_than_the_share_less_the_bound_over_any_interval(
    service: Service,
) -> None:
    service.play().check_shares()


def two(first: Person, second: Person, **options: object) -> Service:
    return Service([first, second], **({"slots": 1} | options))  # type: ignore[arg-type]


def flood(name: str, jobs: int = 60, cost_s: float = 1.0, **more: object) -> Person:
    """Someone who sends everything at the beginning."""
    known: dict[str, object] = {"group": "g", "weight": 1.0, "bursts": ((0.0, jobs),), "costs_s": (cost_s,)}
    return Person(name, **(known | more))  # type: ignore[arg-type]


def served(service: Service, name: str, decisions: int) -> float:
    """Seconds of service that the first decisions gave."""
    return sum(each.cost_s for each in service.log[:decisions] if each.user == name)


# -- the bounds are able to fail ----------------------------------------------------------------------
def by_arrival(shares: Shares) -> JobId | None:
    waiting = shares.by_arrival()
    if not waiting:
        return None
    shares._begin(waiting[0])
    return waiting[0]


def without_weights(claims: Claims, user: str) -> Entitlement:
    return Entitlement(1.0, claims._users[user].most_running)


def with_idle_time_as_credit(flow: Flow, floor: float) -> Flow:
    return Flow(flow.weight, flow.clock, 0.0, 0.0, flow.backlog + 1)


def without_corrections(shares: Shares, job: JobId, cost_s: float) -> Ticket:
    return END(shares, job, shares.charged(job))


END = Shares._end


@pytest.mark.parametrize(
    ("owner", "method", "broken"),
    [
        (Shares, "take", by_arrival),
        (Claims, "user", without_weights),
        (Flow, "back", with_idle_time_as_credit),
        (Shares, "_end", without_corrections),
    ],
)
def test_the_bounds_notice_what_is_unfair(
    owner: type, method: str, broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order of arrival, ignored weights, hoarded idle time and missing corrections; one scene shows each."""

    def scene() -> Service:
        people = [
            flood("long", 60, 4.0),
            flood("short", 400, 0.25),
            flood("heavy", 120, 1.0, weight=4.0),
            flood("back", 80, 1.0, bursts=((0.0, 1), (60.0, 79))),
        ]
        return Service(people, slots=1, learns=False)

    assert scene().play().check_shares() > 1000
    monkeypatch.setattr(owner, method, broken)
    with pytest.raises(AssertionError, match="got too little"):
        scene().play().check_shares()


# -- shares --------------------------------------------------------------------------------------------
def test_a_flood_does_not_stand_in_front_of_a_small_user() -> None:
    late = flood("late", 5, bursts=((0.5, 5),))
    service = two(flood("flood"), late).play()
    assert [each.user for each in service.log[:11]].count("late") == 5


def test_shares_follow_the_weights() -> None:
    service = two(flood("one"), flood("three", weight=3.0)).play()
    assert served(service, "three", 40) == pytest.approx(30, abs=1)


def test_shares_are_of_seconds_and_not_of_jobs() -> None:
    service = two(flood("short", 200, 0.5), flood("long", 20, 5.0)).play()
    assert served(service, "short", 100) == pytest.approx(served(service, "long", 100), abs=5)


def test_a_group_of_many_gets_no_more_than_a_group_of_one() -> None:
    many = [flood(f"m{n}", group="many") for n in range(5)]
    service = Service([*many, flood("single", group="one")], slots=1).play()
    assert served(service, "single", 60) == pytest.approx(30, abs=1)


def test_idle_time_is_no_credit() -> None:
    """Who comes back after a pause begins at the present: no more than the share from then on."""
    back = flood("back", 40, bursts=((0.0, 1), (50.0, 39)))
    service = two(flood("busy", 100), back).play()
    after = [each.user for each in service.log if each.at >= 50.0][:20]
    assert 9 <= after.count("back") <= 11


@pytest.mark.parametrize("slots", [1, 4])
def test_an_estimate_that_is_wrong_for_ever_is_made_good_by_corrections(slots: int) -> None:
    service = two(flood("short", 400, 0.25), flood("long", 20, 5.0), slots=slots, learns=False).play()
    until = [each for each in service.log if each.at < 40.0]
    by_user = [sum(each.cost_s for each in until if each.user == name) for name in ("short", "long")]
    assert by_user[0] == pytest.approx(by_user[1], abs=5 * slots + 1)


def test_an_expected_cost_is_the_users_own_else_the_models() -> None:
    service = two(flood("a", 3, 4.0), flood("b", 2, 4.0, bursts=((30.0, 2),))).play()
    assert [each.expected_s for each in service.log] == [1.0, 4.0, 4.0, 4.0, 4.0]


def test_what_the_fabric_lost_is_not_charged() -> None:
    plain = two(flood("a", 20), flood("b", 20)).play()
    with_losses = two(flood("a", 20), flood("b", 20), lose_every=5).play()
    assert sum(each.cost_s for each in with_losses.log) == sum(each.cost_s for each in plain.log)
    assert served(with_losses, "a", 30) == pytest.approx(served(with_losses, "b", 30), abs=2)


def test_a_user_whose_attempt_was_lost_is_as_well_placed_as_before() -> None:
    shares = Shares(claims := Claims(), inf)
    for user in ("a", "b", "c"):
        claims.note(Claim(user))
    shares.join(JobId("c1"), Claim("c"), 0, 0.0)
    assert shares.take() == "c1"  # runs all the while, so that clocks are kept
    shares.join(JobId("a1"), Claim("a"), 1, 0.0)
    for _ in range(3):
        assert shares.take() == "a1"
        shares.restore(JobId("a1"))
        shares.validate()
    shares.join(JobId("b1"), Claim("b"), 2, 0.0)
    assert shares.take() == "a1"


# -- limits --------------------------------------------------------------------------------------------
def test_a_user_at_the_limit_is_passed_over_and_the_others_take_the_slots() -> None:
    service = two(flood("limited", 20, most_running=1), flood("free"), slots=4).play()
    assert [each.user for each in service.log[:4]].count("limited") == 1
    assert [each.user for each in service.log if each.at == 3.0].count("limited") == 1


def test_a_limit_does_not_cost_more_than_it_says() -> None:
    """Half of two slots is one: a limit of one job takes nothing away from that."""
    service = two(flood("limited", 40, most_running=1), flood("free"), slots=2).play()
    assert served(service, "limited", 60) == pytest.approx(30, abs=1)


def test_a_limit_that_is_lifted_leaves_no_hoard_behind() -> None:
    service = Service([flood("limited", 100, most_running=1), flood("free", 400)], slots=8)
    shares, names = service.shares, iter(range(1000))
    for person, jobs in (("limited", 100), ("free", 400)):
        for _ in range(jobs):
            number = next(names)
            shares.join(JobId(f"{person} {number}"), service.claims[person], number, 0.0)
    running = [shares.take() for _ in range(8)]
    for _ in range(30):
        for job in running:
            assert job is not None
            shares.settle(job, 1.0)
        running = [shares.take() for _ in range(8)]
    lifted = Claim("limited", "g")
    shares._claims.note(lifted)
    shares.reclaim(lifted, priority=True)
    after = [shares.take() for _ in range(10)]
    assert 4 <= sum(str(job).startswith("limited") for job in after) <= 7


# -- classes and patience ------------------------------------------------------------------------------
def test_a_higher_class_goes_first() -> None:
    service = two(flood("low", 10), flood("high", 10, priority=1, bursts=((2.5, 10),))).play()
    assert [each.user for each in service.log] == ["low"] * 3 + ["high"] * 10 + ["low"] * 7


@given(st.integers(1, 5), st.sampled_from([1, 3]), st.floats(1, 10), st.sampled_from([0.5, 1.0, 4.0]))
@settings(max_examples=SIZES.examples)
def test_a_lower_class_waits_for_its_patience_and_then_for_one_job_of_each_other(
    others: int, slots: int, patience_s: float, cost_s: float
) -> None:
    high = [flood(f"h{n}", 12 * slots, cost_s, priority=1) for n in range(others)]
    low = flood("low", 1, priority=0, bursts=((0.5, 1),))
    service = Service([*high, low], slots=slots, patience_s=patience_s).play()
    began = next(at for job, at in service.waits.items() if job.startswith("low"))
    first_costs = slots * others * abs(cost_s - 1.0)  # the first estimates are the default
    bound = (others + slots) * cost_s + 3 * first_costs
    assert began <= 0.5 + patience_s + cost_s + bound
    strict = Service([*high, low], slots=slots, patience_s=inf).play()
    assert (
        next(at for job, at in strict.waits.items() if job.startswith("low")) >= 12 * others * cost_s - cost_s
    )


def test_those_who_waited_share_and_do_not_take_over() -> None:
    """A flood that has waited long enough is one flow beside the others, whatever its length."""
    low = flood("low", 200, priority=0)
    high = [flood(f"h{n}", 100, priority=1) for n in range(3)]
    service = Service([low, *high], slots=1, patience_s=10.0).play()
    after = [each for each in service.log if each.at >= 20.0][:80]
    assert [each.user for each in after].count("low") == pytest.approx(20, abs=1)


def test_a_job_that_ages_takes_its_users_older_ones_along() -> None:
    """Found by the random worlds: a job that was looked at later, when a higher class had come, overtook."""
    shares = Shares(claims := Claims(), 10.0)
    low, high = Claim("u"), Claim("v", priority=1)
    for claim in (low, high):
        claims.note(claim)
    shares.join(JobId("old"), low, 1, 0.0)
    shares.join(JobId("young"), low, 2, 5.0)
    assert not shares.age(10.0)
    shares.join(JobId("high"), high, 3, 12.0)
    assert shares.age(15.0)
    assert [shares.take() for _ in range(3)] == ["high", "old", "young"]


# -- claims that change --------------------------------------------------------------------------------
def changed(shares: Shares, claim: Claim) -> None:
    shares._claims.note(claim)
    shares.reclaim(claim, priority=True)
    shares.validate()


@pytest.fixture
def crowd() -> Shares:
    """Three users of one group with ten jobs each; everybody has had one."""
    shares = Shares(claims := Claims(), inf)
    for user in ("a", "b", "c"):
        claims.note(Claim(user, "g"))
        for number in range(10):
            shares.join(JobId(f"{user}{number}"), Claim(user, "g"), ord(user) * 100 + number, 0.0)
    for _ in range(3):
        job = shares.take()
        assert job is not None
        shares.settle(job, 1.0)
    return shares


def next_users(shares: Shares, decisions: int) -> str:
    return "".join(str(shares.take())[0] for _ in range(decisions))


def test_a_new_weight_bites_at_the_next_decision(crowd: Shares) -> None:
    changed(crowd, Claim("c", "g", user_weight=8.0))
    assert next_users(crowd, 10).count("c") >= 7


def test_a_weight_is_lowered_without_a_debt_or_a_gift(crowd: Shares) -> None:
    changed(crowd, Claim("c", "g", user_weight=0.25))
    assert 1 <= next_users(crowd, 18).count("c") <= 3


def test_a_new_class_and_a_new_group_take_the_waiting_jobs_along(crowd: Shares) -> None:
    changed(crowd, Claim("c", "other", priority=3))
    assert next_users(crowd, 9) == "c" * 9
    assert {crowd.ticket(job).group for job in crowd.by_arrival()} == {"g"}


def test_a_new_limit_holds_for_what_waits(crowd: Shares) -> None:
    changed(crowd, Claim("a", "g", user_most_running=0))
    assert "a" not in next_users(crowd, 18)
    assert crowd.take() is None
    changed(crowd, Claim("a", "g", user_most_running=2))
    assert next_users(crowd, 2) == "aa"


def test_jobs_on_all_models_count_for_one_limit() -> None:
    claims = Claims()
    one, two = Shares(claims, inf), Shares(claims, inf)
    claim = Claim("u", user_most_running=1)
    claims.note(claim)
    one.join(JobId("j1"), claim, 1, 0.0)
    two.join(JobId("j2"), claim, 2, 0.0)
    assert one.take() == "j1"
    assert two.take() is None
    one.settle(JobId("j1"), 1.0)
    assert two.take() == "j2"


# -- forecasts -----------------------------------------------------------------------------------------
@given(services(lose_every=0, cancel_every=0, learns=False), st.integers(0, 60))
@settings(max_examples=SIZES.examples)
def test_a_forecast_is_what_happens_if_nothing_else_comes_and_costs_are_as_expected(
    service: Service, already: int
) -> None:
    """Everything is sent at once and costs what is expected; somewhere on the way the rest is forecast."""
    shares, jobs, began = service.shares, 0, {}
    for person in service.people:
        for _, number in person.bursts:
            for _ in range(number):
                shares.join(JobId(f"j{jobs:04}"), service.claims[person.name], jobs, 0.0)
                jobs += 1
    now, running, free = 0.0, [], service.slots
    expected: list[tuple[str, float | None]] = []
    happened: list[tuple[str, float]] = []
    while len(shares) or running:
        while free and (job := shares.take()) is not None:
            free -= 1
            running.append((now + 1.0, job))
            began[job] = now
            happened.append((job, now))
        if not expected and len(began) >= min(already, jobs - 1):
            left = {job: ends - now for ends, job in running}
            expected = [(each.job, each.in_s) for each in forecast(shares, now, free, left, most=10_000)]
            origin, seen = now, len(happened)
        running.sort()
        now, job = running.pop(0)
        shares.end_as_expected(job)
        free += 1
    assert expected == [(job, at - origin) for job, at in happened[seen:]]


def test_a_forecast_changes_nothing_and_is_cut_where_it_is_told() -> None:
    shares = Shares(claims := Claims(), inf)
    for number in range(20):
        claim = Claim(f"u{number % 3}")
        claims.note(claim)
        shares.join(JobId(f"j{number:02}"), claim, number, 0.0)
    whole = forecast(shares, 0.0, 1, {}, most=100)
    cut = forecast(shares, 0.0, 1, {}, most=5)
    assert cut == whole[:5]
    assert [shares.take() for _ in range(20)] == [each.job for each in whole]


def test_without_a_replica_the_order_is_told_and_no_time() -> None:
    shares = Shares(claims := Claims(), inf)
    claims.note(Claim("u"))
    for number in range(3):
        shares.join(JobId(f"j{number}"), Claim("u"), number, 0.0)
    assert [(each.job, each.in_s) for each in forecast(shares, 0.0, 0, {}, most=100)] == [
        ("j0", None),
        ("j1", None),
        ("j2", None),
    ]


def test_a_job_whose_limit_is_used_up_elsewhere_has_no_expected_start() -> None:
    claims = Claims()
    here, elsewhere = Shares(claims, inf), Shares(claims, inf)
    limited = Claim("limited", user_most_running=1)
    for claim in (limited, Claim("free")):
        claims.note(claim)
    elsewhere.join(JobId("far"), limited, 0, 0.0)
    elsewhere.take()
    here.join(JobId("held"), limited, 1, 0.0)
    here.join(JobId("goes"), Claim("free"), 2, 0.0)
    told = forecast(here, 0.0, 1, {}, most=100)
    assert [(each.job, each.in_s) for each in told] == [("goes", 0.0)]
