"""Several jobs in one process: what each has of the process is its own, and none keeps the others waiting."""

import operator
import random
import signal
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from nnsight.tracing.backend import Backend

import edif
from edif.executor.merging import patience
from edif.executor.merging.hub import Hub
from edif.executor.merging.tenant import Tenant
from edif.wire.turn_register import NOBODY
from tests.unit.executor.merging.jobs import BOUNDS, Program, Site, all_fit, fits
from tests.unit.executor.merging.test_joint_pass import reads
from tests.unit.executor.merging.tiny import prompt

# ruff: noqa: F841 - what a block saves is sent back by its name
# A job's patience is a timer of the process, as is that of pytest's own time limit.
pytestmark = pytest.mark.timeout(method="thread")


# -- each its own ------------------------------------------------------------------------------------------
def keeps(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            kept = edif.keep(model.transformer.h[0].output)
            logits = edif.keep(model.lm_head.output)

    return program


def test_each_keeps_what_it_marked(gpt2: Site) -> None:
    programs = [keeps(1), reads(11), keeps(21)]
    alone = [gpt2.solo(each) for each in programs]
    for one, other in zip(alone, gpt2.merged(*programs), strict=True):
        assert fits(one, other)
        assert other.shared == 1
        assert len(other.kept) == len(one.kept)
        assert all(map(torch.equal, one.kept, other.kept))


def test_blocks_of_equal_file_names_do_not_mix(gpt2: Site) -> None:
    """nnsight finds nested blocks by file name and line."""

    def nested(start: int, by: str) -> Program:
        source = f"""
def program(model, backend):
    with model.session(backend=backend):
        with model.trace(ids):
            first = (model.transformer.h[0].output {by}).save()
        with model.trace(ids):
            with model.edit() if False else __import__("contextlib").nullcontext():
                second = (model.transformer.h[1].output {by}).save()
"""
        import linecache

        names: dict[str, Any] = {"ids": prompt(start)}
        name = "/home/someone/notebook.py"

        def program(model: Any, backend: Backend) -> None:
            linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
            exec(compile(source, name, "exec"), names)
            names["program"](model, backend)

        return program

    programs = [nested(1, "* 2"), nested(1, "* 3"), nested(1, "+ 1"), nested(9, "* 2")]
    ended = all_fit(gpt2, programs, shared=2)
    firsts = [each.saved["first"] for each in ended]
    assert torch.equal(firsts[0] * 1.5, firsts[1])
    assert not torch.equal(firsts[0], firsts[3])


def test_a_tensor_saved_by_one_is_not_sent_to_another(gpt2: Site) -> None:
    def plain(model: Any, backend: Backend) -> None:
        with model.trace(prompt(3), backend=backend):
            hidden = model.transformer.h[0].output
            logits = model.lm_head.output.save()

    ended = gpt2.merged(plain, reads(13), plain)
    assert [set(each.saved) for each in ended] == [
        {"logits"},
        {"hidden", "attention", "logits", "result"},
        {"logits"},
    ]


def test_gradient_mode_is_each_ones_own(gpt2: Site) -> None:
    def without(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            torch.set_grad_enabled(False)
            with model.trace(prompt(3)):
                first = model.transformer.h[0].output.requires_grad.save()
            flag = torch.is_grad_enabled().save()

    def with_them(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            with model.trace(prompt(3)):
                first = model.transformer.h[0].output.requires_grad.save()
            flag = torch.is_grad_enabled().save()

    try:
        off, on, again = gpt2.merged(without, with_them, without)
    finally:
        torch.set_grad_enabled(True)
    assert (off.saved, on.saved, again.saved) == (
        {"first": False, "flag": False},
        {"first": True, "flag": True},
        {"first": False, "flag": False},
    )


def test_each_begins_before_the_next_one_is_asked_for(gpt2: Site) -> None:
    seen: list[str] = []

    def coming() -> Iterator[Callable[[Tenant], None]]:
        for name in ("first", "second"):
            seen.append(f"{name} comes")
            yield lambda _, name=name: seen.append(f"{name} runs")

    before = signal.getsignal(signal.SIGALRM)
    try:
        Hub(gpt2.loaded, gpt2.layout, BOUNDS, gpt2.untouched).run(coming())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen == ["first comes", "first runs", "second comes", "second runs"]


# -- random numbers ----------------------------------------------------------------------------------------
def seeded(seed: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            with model.trace(prompt(3)):
                one = torch.rand(3).save()
                hidden = model.transformer.h[0].output.save()
                two = torch.rand(3).save()
            three = [torch.rand(1).item(), random.random(), float(np.random.rand())].save()

    return program


def test_who_seeds_draws_the_numbers_of_the_seed(gpt2: Site) -> None:
    programs = [seeded(1), seeded(2), reads(5), seeded(1)]
    alone = [gpt2.solo(each) for each in programs]
    ended = gpt2.merged(*programs)
    assert all(map(fits, alone, ended))


def seeded_elsewhere(seed: int) -> Program:
    """By a function of which the block says nothing."""
    begin = operator.methodcaller("manual" + "_seed", seed)

    def program(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            begin(torch)
            with model.trace(prompt(3)):
                one = torch.rand(3).save()
                hidden = model.transformer.h[0].output.save()
                two = torch.rand(3).save()
            three = torch.rand(3).save()

    return program


def test_where_the_seed_was_set_makes_no_difference(gpt2: Site) -> None:
    all_fit(gpt2, [seeded_elsewhere(1), seeded_elsewhere(2), reads(5), seeded_elsewhere(1)])


def test_without_a_seed_everybody_draws_other_numbers(gpt2: Site) -> None:
    def draws(model: Any, backend: Backend) -> None:
        with model.trace(prompt(3), backend=backend):
            hidden = model.transformer.h[0].output
            number = torch.rand(1).save()

    ended = gpt2.merged(draws, draws, draws)
    assert len({each.saved["number"].item() for each in ended}) == 3


def sets_the_seed(seed: int) -> Program:
    """By transformers, for all generators."""

    def program(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            from transformers import set_seed

            set_seed(seed)
            with model.trace(prompt(3)):
                hidden = model.transformer.h[0].output.save()
            numbers = [torch.rand(1).item(), random.random(), float(np.random.rand())].save()

    return program


def puts_a_state_in(seed: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            random.setstate(random.Random(seed).getstate())
            with model.trace(prompt(3)):
                hidden = model.transformer.h[0].output.save()
            number = random.random().save()

    return program


@pytest.mark.parametrize("kind", [sets_the_seed, puts_a_state_in], ids=lambda each: each.__name__)
def test_other_ways_to_begin_at_a_seed(kind: Any, gpt2: Site) -> None:
    programs = [kind(1), kind(2), reads(5), kind(1)]
    alone = [gpt2.solo(each) for each in programs]
    assert all(map(fits, alone, gpt2.merged(*programs)))


# -- warnings ----------------------------------------------------------------------------------------------
def library(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """An installed module that warns."""
    made = types.ModuleType(name)
    made.__file__ = f"/usr/lib/python3/site-packages/{name}.py"
    exec("import warnings\ndef speak(text):\n    warnings.warn(text)", vars(made))
    monkeypatch.setitem(sys.modules, name, made)


def shown(message: Any) -> None:
    print(message.message, file=sys.stderr)


def speaks(start: int, text: str) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            __import__("warns").speak(text)
            hidden = model.transformer.h[0].output.save()
            __import__("warns").speak(text)
            logits = model.lm_head.output.save()
            __import__("warns").speak(text)

    return program


def wants_none(start: int, text: str) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            __import__("warnings").simplefilter("ignore")
            hidden = model.transformer.h[0].output.save()
            logits = model.lm_head.output.save()
            __import__("warns").speak(text)

    return program


def test_a_warning_that_is_given_once_is_given_to_each_of_them(
    gpt2: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        filters = list(warnings.filters)
        monkeypatch.setattr(warnings, "_showwarnmsg_impl", shown)
        library(monkeypatch, "warns")
        first, second, third = gpt2.merged(speaks(1, "careful"), speaks(11, "careful"), speaks(21, "other"))
        again = gpt2.merged(speaks(1, "careful"), wants_none(11, "careful"), speaks(21, "careful"))
        assert warnings.filters == filters
    assert first.shared == second.shared == third.shared == 1
    assert [each.printed.split() for each in (first, second, third)] == [["careful"], ["careful"], ["other"]]
    # Where anybody changes what is shown, Python forgets what it has shown to anybody.
    assert [set(each.printed.split()) for each in again] == [{"careful"}, set(), {"careful"}]


# -- what needs a pass of its own --------------------------------------------------------------------------
def own_gradients(model: Any, backend: Backend) -> None:
    with model.trace(prompt(3), backend=backend):
        hidden = model.transformer.h[0].output
        loss = model.lm_head.output.sum()
        with loss.backward():
            gradient = hidden.grad.save()


def own_source(model: Any, backend: Backend) -> None:
    with model.trace(prompt(3), backend=backend):
        inner = model.transformer.h[0].attn.source.attention_interface_0.output[0].save()


def own_skip(model: Any, backend: Backend) -> None:
    with model.trace(prompt(3), backend=backend):
        hidden = model.transformer.h[0].output
        model.transformer.h[1].skip(hidden)
        logits = model.lm_head.output.save()


def own_scan(model: Any, backend: Backend) -> None:
    with model.session(backend=backend), model.scan(prompt(3)):
        shape = list(model.transformer.h[0].output.shape).save()


OWN = [own_gradients, own_skip, own_scan]


@pytest.mark.parametrize("program", OWN, ids=lambda each: each.__name__)
def test_what_needs_a_pass_of_its_own_has_one(program: Program, gpt2: Site) -> None:
    ended, other, third = gpt2.merged(program, reads(13), reads(23))
    assert fits(gpt2.solo(program), ended), ended
    assert ended.shared == 0
    assert other.shared == third.shared == 1
    assert fits(gpt2.solo(reads(13)), other)


def test_a_changed_model_is_seen_by_nobody_else(gpt2: Site) -> None:
    """Its passes are its own from then on; and the runner that finds it so is replaced."""

    def hooks(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            block = model.transformer.h[0]._module
            handle = operator.methodcaller("register_forward" + "_hook", lambda *args: args[-1] * 2)(block)
            with model.trace(prompt(3)):
                logits = model.lm_head.output.save()
            handle.remove()

    ended, other = gpt2.merged(hooks, reads(13))
    assert fits(gpt2.solo(hooks), ended)
    assert ended.shared == 0
    assert fits(gpt2.solo(reads(13)), other)


@pytest.mark.parametrize("module", [None, 7, "of_its_own"])
def test_who_watches_python_by_a_function_of_no_module_costs_nobody_the_pass(
    module: object, gpt2: Site
) -> None:
    """What a block defines has no module to its name."""

    def watches(model: Any, backend: Backend) -> None:
        import sys

        with model.trace(prompt(3), backend=backend):
            hidden = model.transformer.h[0].output.save()
            watch = lambda *_: None  # noqa: E731
            watch.__module__ = module
            try:
                sys.settrace(watch)
                logits = model.lm_head.output.save()
            finally:
                sys.settrace(None)

    before = sys.gettrace()
    try:
        ended, other, third = gpt2.merged(watches, reads(13), reads(23))
    finally:
        sys.settrace(before)
    assert ended.misfit == "it watches what Python does"
    assert (other.misfit, third.misfit) == ("", "")
    assert fits(gpt2.solo(reads(13)), other)


# -- patience ----------------------------------------------------------------------------------------------
def sleeps(seconds: float) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(3), backend=backend):
            hidden = model.transformer.h[0].output.save()
            time.sleep(seconds)
            logits = model.lm_head.output.save()

    return program


def sleeps_before(seconds: float) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            time.sleep(seconds)
            with model.trace(prompt(3)):
                logits = model.lm_head.output.save()

    return program


def sleeps_after(seconds: float) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            with model.trace(prompt(3)):
                logits = model.lm_head.output.save()
            time.sleep(seconds)
            with model.trace(prompt(4)):
                more = model.lm_head.output.save()

    return program


def sleeps_on(seconds: float) -> Program:
    """And does not let itself be interrupted, for a while."""

    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(3), backend=backend):
            hidden = model.transformer.h[0].output.save()
            for _ in range(3):
                with suppress(BaseException):
                    time.sleep(seconds)
            logits = model.lm_head.output.save()

    return program


def two_traces(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            with model.trace(prompt(start)):
                first = model.lm_head.output.save()
            with model.trace(prompt(start + 1)):
                second = model.lm_head.output.save()

    return program


LONG = 20.0


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "MOST_S", 0.1)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("sluggard", "last"),
    [
        (sleeps, False),
        (sleeps, True),
        (sleeps_before, True),  # before the first one has begun nobody waits
        (sleeps_after, False),
        (sleeps_after, True),
        (sleeps_on, False),
    ],
)
def test_who_keeps_others_waiting_is_put_out(sluggard: Any, last: bool, gpt2: Site) -> None:
    others = [two_traces(11), two_traces(21)]
    slow = sluggard(LONG)
    order = [*others, slow] if last else [slow, *others]
    alone = [gpt2.solo(each) for each in others]
    began = time.monotonic()
    ended = gpt2.merged(*order)
    assert time.monotonic() - began < LONG / 2
    by_program = dict(zip(order, ended, strict=True))
    assert by_program[slow].misfit == "its code took long while others waited"
    assert by_program[slow].failed == ""
    for program, expected in zip(others, alone, strict=True):
        assert fits(expected, by_program[program], 64.0)


@pytest.mark.usefixtures("hasty")
def test_a_job_that_sets_the_timer_does_not_stop_the_clock(gpt2: Site) -> None:
    def stops_it(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            with model.trace(prompt(3)):
                logits = model.lm_head.output.save()

    began = time.monotonic()
    _, slow, other = gpt2.merged(stops_it, sleeps(LONG), reads(13))
    assert time.monotonic() - began < LONG / 2
    assert slow.misfit == "its code took long while others waited"
    assert fits(gpt2.solo(reads(13)), other)


def test_a_clock_that_rings_when_the_turn_is_over_disturbs_nobody(
    gpt2: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "MOST_S", 0.0)
    rung: list[int] = []

    def ring(number: int, _: float) -> None:
        if number == NOBODY:
            rung.append(number)
            signal.raise_signal(signal.SIGALRM)

    programs = [two_traces(11), reads(21)]
    alone = [gpt2.solo(each) for each in programs]
    ended = gpt2.merged(*programs, has_turn=ring)
    assert rung
    assert all(fits(one, other, 64.0) for one, other in zip(alone, ended, strict=True))


def test_ids_that_the_model_does_not_know_are_their_owners_failure(gpt2: Site) -> None:
    def unknown(model: Any, backend: Backend) -> None:
        with model.trace(prompt(3) + 1_000_000, backend=backend):
            logits = model.lm_head.output.save()

    failed, *others = gpt2.merged(unknown, reads(11), reads(21))
    assert "index out of range" in failed.failed
    assert [(each.misfit, each.shared) for each in others] == [("", 1), ("", 1)]


def test_who_has_waited_longest_is_served_first(gpt2: Site) -> None:
    """And not all traces of two that are alike before the only ones of others."""

    def session(model: Any, backend: Backend) -> None:
        import time

        with model.session(backend=backend):
            with model.trace(prompt(3)):
                first = model.lm_head.output.save()
            with model.trace(prompt(4)):
                second = model.lm_head.output.save()
                at = time.monotonic().save()

    def single(model: Any, backend: Backend) -> None:
        import time

        with model.trace(prompt(5, 7), backend=backend):
            logits = model.lm_head.output.save()
            at = time.monotonic().save()

    of_session, _, of_single, _ = gpt2.merged(session, session, single, single)
    assert (of_session.shared, of_single.shared) == (2, 1)
    assert of_single.saved["at"] < of_session.saved["at"]


@pytest.mark.usefixtures("hasty")
def test_who_keeps_nobody_waiting_may_take_its_time(gpt2: Site) -> None:
    (ended,) = gpt2.merged(sleeps_before(0.3))
    assert ended.misfit == ""
    assert ended.failed == ""


@pytest.mark.usefixtures("hasty")
def test_who_has_not_been_let_in_yet_waits_too(gpt2: Site) -> None:
    began = time.monotonic()
    (ended,) = gpt2.merged(sleeps_before(LONG), somebody_comes=lambda: time.monotonic() > began + 0.5)
    assert ended.misfit == "its code took long while others waited"
    assert 0.5 < time.monotonic() - began < LONG / 2


def test_it_is_known_at_each_moment_whose_turn_it_is(gpt2: Site) -> None:
    turns: list[int] = []
    seen: list[tuple[int, int]] = []

    def looks(start: int, number: int) -> Program:
        def program(model: Any, backend: Backend) -> None:
            with model.trace(prompt(start), backend=backend):
                hidden = model.transformer.h[0].output
                __import__("looking").look(number)
                logits = model.lm_head.output.save()
                __import__("looking").look(number)

        return program

    looking = types.ModuleType("looking")
    looking.look = lambda number: seen.append((number, turns[-1]))  # type: ignore[attr-defined]
    sys.modules["looking"] = looking
    try:
        ended = gpt2.merged(
            looks(1, 1), looks(11, 2), looks(21, 3), has_turn=lambda number, _: turns.append(number)
        )
    finally:
        del sys.modules["looking"]
    assert [each.shared for each in ended] == [1, 1, 1]
    assert sorted(seen) == [(1, 1), (1, 1), (2, 2), (2, 2), (3, 3), (3, 3)]
    assert turns[1::2] == [NOBODY] * (len(turns) // 2)


@pytest.mark.usefixtures("hasty")
def test_a_pass_of_ones_own_is_no_dawdling(gpt2: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who needs one, of a large model, takes longer for it than code may take at a stretch."""
    block = gpt2.loaded.module.transformer.h[0].mlp
    forward = block.act.forward

    def slowly(*args: Any) -> Any:
        time.sleep(0.25)
        return forward(*args)

    monkeypatch.setattr(block.act, "forward", slowly)
    monkeypatch.setattr(gpt2.untouched, "changed", lambda: "", raising=False)
    monkeypatch.setattr(gpt2.untouched, "changed_for_now", lambda: "", raising=False)
    other, third, ended = gpt2.merged(reads(13), reads(23), own_gradients)
    assert ended.misfit == ""
    assert set(ended.saved) == {"gradient"}
    assert other.misfit == third.misfit == ""


def test_a_failing_pass_is_void_for_all_in_it(gpt2: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    act = gpt2.loaded.module.transformer.h[0].mlp.act
    forward = act.forward

    def of_one_row(rows: torch.Tensor) -> Any:
        return forward(rows) if len(rows) == 1 else rows[len(rows)]

    monkeypatch.setattr(act, "forward", of_one_row)
    monkeypatch.setattr(gpt2.untouched, "changed", lambda: "", raising=False)
    monkeypatch.setattr(gpt2.untouched, "changed_for_now", lambda: "", raising=False)
    one, other, unlike = gpt2.merged(reads(3), reads(13), reads(23, 7))
    assert one.misfit == "the shared pass failed: IndexError"
    assert other.misfit == "the shared pass failed: IndexError"
    assert fits(gpt2.solo(reads(23, 7)), unlike)
