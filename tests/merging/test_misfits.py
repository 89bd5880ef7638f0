"""In crowds with jobs that go wrong, the others have the results that they have without them; each misfit ends as it does alone."""

import asyncio
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edif.executor.merging.patience import MOST_S
from edif.wire.link import ModelSpec
from edif.worker import shared_stock, turn_watch
from edif.worker.tries import WAS_THERE
from tests.merging.test_random_programs import EVERYTHING, IDS, compare, run_in_crowds
from tests.sizes import SIZES, SOAK
from tests.support.programs.crowds import Crowd, crowd
from tests.support.programs.drawing import draw
from tests.support.programs.misfits import calling_c, dawdling, killed, sleeping
from tests.support.programs.payloads import Payload, payloads
from tests.support.programs.program import FAMILIES, Program
from tests.support.programs.serving import Outcome, Served, serving

ENDS = {"raises": "user_code", "stops": "", "sleeps": "", "killed": "died"}
"""The codes with which misfits end."""

Ran = list[tuple[Program, Outcome]]


Minted = dict[Program, Payload]


@dataclass(frozen=True, repr=False)
class Sent:
    """One crowd, ready to be sent."""

    model: ModelSpec
    jobs: Crowd
    minted: Minted


@pytest.fixture(
    scope="module",
    params=itertools.product(FAMILIES if SOAK else FAMILIES[:1], range(SIZES.crowds)),
    ids=lambda which: f"{which[0]}-{which[1]}",
)
def sent(
    request: pytest.FixtureRequest, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Sent:
    """Minted once for both kinds of isolation."""
    family, number = request.param
    jobs, folder = crowd(number, family), models[IDS[family]]
    minted = _minted(jobs.order, folder, tmp_path_factory.mktemp("programs"))
    return Sent(ModelSpec(IDS[family], str(folder)), jobs, minted)


@pytest.mark.parametrize("isolation", ["sealed", "shared"])
async def test_the_others_results_are_those_without_misfits(
    sent: Sent, isolation: str, tmp_path: Path
) -> None:
    jobs, minted = sent.jobs, sent.minted
    async with serving(sent.model, tmp_path, sealed=isolation == "sealed", merging=EVERYTHING) as served:
        without = await _run(served, jobs.innocent, minted, merge=True)
        with_misfits = await _run(served, jobs.order, minted, merge=True)
        alone = await _run(served, list(dict.fromkeys(jobs.misfits)), minted, merge=False)
    _as_expected(jobs, without, with_misfits, alone)
    _in_company(with_misfits, isolation)


async def test_who_shared_a_runner_with_one_that_died_is_run_again(
    models: dict[str, Path], tmp_path: Path
) -> None:
    spec = ModelSpec(IDS["gpt2"], str(models[IDS["gpt2"]]))
    innocent = _innocent(4)
    deadly = killed("gpt2", 8)
    minted = _minted([*innocent, deadly], models[IDS["gpt2"]], tmp_path / "programs")
    async with serving(spec, tmp_path / "served", merging=EVERYTHING) as served:
        alone = await _run(served, innocent, minted, merge=False)
        outcomes = await _run(served, [*innocent[:2], deadly, *innocent[2:]], minted, merge=True)
        dead = [outcome for program, outcome in outcomes if program is deadly]
        others = [(program, outcome) for program, outcome in outcomes if program is not deadly]
        # It had the turn, so it is run again alone; the others are not, who were only there.
        assert [(each.code, each.why_alone, each.tries) for each in dead] == [("died", WAS_THERE, 2)]
        assert _differences(alone, others) == []
        assert {outcome.why_alone for _, outcome in others} == {""}
        assert max(outcome.tries for _, outcome in others) == 2
        assert all(outcome.in_company for _, outcome in others if outcome.tries == 2)
        # And the next process takes jobs as if nothing had been.
        again = await _run(served, innocent, minted, merge=True)
        assert _differences(alone, again) == []
        assert {outcome.why_alone for _, outcome in again} == {""}


async def test_who_sleeps_keeps_nobody_neither_in_company_nor_alone(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """The others end while it sleeps, and so do those who come after them; also while as many sleep as may run alone at once."""
    forever = 3600.0
    innocent = _innocent(2)
    sluggards = [sleeping("gpt2", forever, 8) for _ in range(shared_stock.MOST)]
    minted = _minted([*innocent, *sluggards], models[IDS["gpt2"]], tmp_path / "programs")
    spec = ModelSpec(IDS["gpt2"], str(models[IDS["gpt2"]]))
    async with serving(spec, tmp_path / "served", merging=EVERYTHING) as served:
        alone = await _run(served, innocent, minted, merge=False)
        served.merge = True
        asleep = [
            asyncio.create_task(served.run(minted[each], time_limit_s=2 * forever)) for each in sluggards
        ]
        for _ in range(3):
            outcomes = await _run(served, innocent * 2, minted, merge=True)
            assert _differences(alone, outcomes) == []
            assert {outcome.tries for _, outcome in outcomes} == {1}
        assert not any(each.done() for each in asleep)
        for each in asleep:
            each.cancel()
        await asyncio.wait(asleep)


async def test_who_makes_a_long_call_into_c_keeps_the_others_for_a_bounded_time(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No signal interrupts it: their agent has to notice. It is run again alone, where it may take its time."""
    monkeypatch.setattr(turn_watch, "LEAST_S", 1.0)
    bearable_s, call_s = 1.0 + 2 * MOST_S, 8.0
    innocent = _innocent(4)
    long = calling_c("gpt2", await asyncio.to_thread(_rounds_in, call_s))
    minted = _minted([*innocent, long], models[IDS["gpt2"]], tmp_path / "programs")
    spec = ModelSpec(IDS["gpt2"], str(models[IDS["gpt2"]]))
    async with serving(spec, tmp_path / "served", merging=EVERYTHING) as served:
        alone = await _run(served, innocent, minted, merge=False)
        served.merge = True
        began = time.monotonic()
        calling = asyncio.create_task(served.run(minted[long]))
        outcomes = await _run(served, innocent, minted, merge=True)
        took_s = time.monotonic() - began
        assert not calling.done()
        called = await calling
        again = await _run(served, innocent, minted, merge=True)
    assert took_s < (bearable_s + call_s) / 2
    assert _differences(alone, [*outcomes, *again]) == []
    assert {outcome.why_alone for _, outcome in [*outcomes, *again]} == {""}
    assert max(outcome.tries for _, outcome in outcomes) == 2
    assert (called.code, called.why_alone, called.tries) == ("", WAS_THERE, 2)


def _rounds_in(seconds: float) -> int:
    """Of the call of :func:`calling_c`, on this machine."""
    rounds, began = 500_000, time.monotonic()
    hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)
    return int(rounds * seconds / (time.monotonic() - began))


@pytest.mark.parametrize(
    ("isolation", "why"), [("sealed", "too slowly"), ("shared", "took long in all while others waited")]
)
async def test_who_has_a_pass_wait_a_little_at_every_visit_is_put_out(
    isolation: str, why: str, models: dict[str, Path], tmp_path: Path
) -> None:
    """Each time for less than a pass waits; in all 2.25 seconds more than a pass without it takes."""
    steps = 50
    slow, quick = dawdling("gpt2", 0.045, steps), dawdling("gpt2", 0.0, steps)
    minted = _minted([slow, quick], models[IDS["gpt2"]], tmp_path / "programs")
    spec = ModelSpec(IDS["gpt2"], str(models[IDS["gpt2"]]))
    async with serving(spec, tmp_path / "served", sealed=isolation == "sealed", merging=EVERYTHING) as served:
        alone = await _run(served, [slow, quick], minted, merge=False)
        both = await _run(served, [slow, quick], minted, merge=True)
    assert _differences(alone, both) == []
    assert why in both[0][1].why_alone
    assert both[1][1].why_alone == ""


def _innocent(count: int) -> list[Program]:
    """Traces of the misfits' length."""
    drawn = (draw(seed, "gpt2", "trace") for seed in range(1_000))
    fit = (each for each in drawn if each.length == 8 and each.raises is None)
    return list(itertools.islice(fit, count))


def _minted(programs: Sequence[Program], model: Path, folder: Path) -> Minted:
    once = list(dict.fromkeys(programs))
    return dict(zip(once, payloads(once, model, folder), strict=True))


async def _run(served: Served, programs: Sequence[Program], minted: Minted, *, merge: bool) -> Ran:
    outcomes = await run_in_crowds(served, [minted[each] for each in programs], seed=1, merge=merge)
    if not served.sealed:  # Python shows a warning once: of several jobs in one process the first gets it
        outcomes = [replace(each, log="") for each in outcomes]
    return list(zip(programs, outcomes, strict=True))


def _differences(expected: Ran, found: Ran) -> list[str]:
    known = dict(expected)
    return [
        f"{program.name}: {each}\n{program.source}"
        for program, outcome in found
        for each in compare(known[program], outcome)
    ]


def _as_expected(jobs: Crowd, without: Ran, with_misfits: Ran, alone: Ran) -> None:
    innocent, misfits = set(jobs.innocent), set(jobs.misfits)
    wrong = _differences(without, [each for each in with_misfits if each[0] in innocent])
    assert not wrong, f"{len(wrong)} differ\n" + "\n".join(wrong[:5])
    assert {outcome.code for program, outcome in with_misfits if program in innocent} == {""}
    wrong = _differences(alone, [each for each in with_misfits if each[0] in misfits])
    assert not wrong, f"{len(wrong)} misfits end otherwise\n" + "\n".join(wrong[:5])
    for program, outcome in with_misfits:
        if program in misfits:
            assert outcome.code == ENDS[program.kind], outcome
            assert program.raises is None or program.raises in outcome.sentence


def _in_company(ran: Ran, isolation: str) -> None:
    """Without which all of this would show nothing."""
    shared = Counter(program.kind if program.kind in ENDS else "" for program, each in ran if each.in_company)
    reasons = Counter(outcome.why_alone for _, outcome in ran)
    print(f"in company: {dict(shared)}; run again, alone: {dict(reasons)}")
    assert shared[""] >= 20
    if isolation == "sealed":
        assert WAS_THERE not in reasons  # each has a process of its own
    else:  # of a sealed job that is over before its pass, nothing is told of that pass
        assert shared["raises"] >= 3
        assert shared["stops"] >= 3
        assert reasons[WAS_THERE] >= 1
        again = Counter(outcome.tries for _, outcome in ran)
        assert again[2] >= 2
        # Two that others take from it, of those that it has begun, and one alone; one that it had not begun may be among them.
        assert max(again) <= 4
