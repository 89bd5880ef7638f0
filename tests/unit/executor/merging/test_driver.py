"""The driver of shared passes among hostile jobs: whatever they say, who shares a pass with them gets the bits of its own."""

import os
import resource
import select
import socket
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import torch
from nnsight.tracing.backend import Backend

from edif.core.errors import JobFailed
from edif.executor.merging.bounds import Bounds
from edif.executor.merging.identity import Identity
from edif.executor.merging.joint_pass import Left
from edif.executor.merging.sealed_party import Patience, SealedParty
from edif.executor.merging.visit import Visit
from edif.wire import pipe, seat
from tests.unit.executor.merging import tiny
from tests.unit.executor.merging.jobs import BOUNDS, Program, Site, fits, site
from tests.unit.executor.merging.seats import Hostile, Raw, Room, room
from tests.unit.executor.merging.tiny import TOLERANCE, VOCABULARY, prompt

# ruff: noqa: F841 - what a block saves is sent back by its name
pytestmark = pytest.mark.timeout(60)
BLOCK, HEAD, POSITIONS = (
    "model.transformer.h.0.output",
    "model.lm_head.output",
    "model.transformer.wpe.output",
)

NOT_UNDERSTOOD = seat.Over(failed=True, reason="what it said cannot be understood", tokens=5)


def honest(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            hidden = model.transformer.h[0].output.save()
            model.transformer.h[1].output[:, 2] = 0
            logits = model.lm_head.output.save()

    return program


def honest_generation(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(start), max_new_tokens=3, backend=backend) as tracer:
            first = model.lm_head.output.save()
            ids = tracer.result.save()

    return program


@pytest.fixture(scope="module")
def driver(gpt2: Site) -> Iterator[Room]:
    """One for all of them: it stays up."""
    with room(gpt2) as made:
        yield made


# -- what hostile jobs do ----------------------------------------------------------------------------------
def garbage(raw: Raw) -> None:
    raw.bytes(b"\xc1\x00garbage")


def another_message(raw: Raw) -> None:
    raw.bytes(msgspec.msgpack.encode(seat.Over(failed=False)))


def too_long(raw: Raw) -> None:
    raw.bytes(b"\x00" * 70_000)


def descriptors(raw: Raw) -> None:
    for _ in range(300):
        fd = os.open("/dev/null", os.O_RDONLY)
        raw.bytes(msgspec.msgpack.encode(seat.AloneOver()), (fd, fd))
        os.close(fd)


def answers_to_nothing(raw: Raw) -> None:
    for _ in range(20):
        raw.say(seat.Answer([0], [0], [], leaves=False))
    raw.join(BLOCK)
    for _ in range(20):
        raw.say(seat.Answer([0], [0], [], leaves=False))
    raw.visit()


def indices_out_of_range(raw: Raw) -> None:
    raw.join(BLOCK, HEAD)
    if raw.visit():
        raw.say(seat.Answer([7], [2**31 - 1], [], leaves=False))
        raw.visit()
        assert raw.heard[-1] == NOT_UNDERSTOOD


def joins_in_a_visit(raw: Raw) -> None:
    raw.join(BLOCK)
    if raw.visit():
        raw.join(HEAD)
        raw.join(HEAD)
        raw.visit()


def garbage_in_a_visit(raw: Raw) -> None:
    raw.join(BLOCK)
    if raw.visit():
        raw.bytes(b"\xc1")
        raw.visit()
        assert raw.heard[-1] == NOT_UNDERSTOOD


def too_long_in_a_visit(raw: Raw) -> None:
    raw.join(BLOCK)
    if raw.visit():
        raw.bytes(b"\x00" * 70_000)
        raw.visit()
        assert raw.heard[-1] == NOT_UNDERSTOOD


def leaves_in_a_visit(raw: Raw) -> None:
    raw.join(BLOCK)
    raw.visit()


def never_answers(raw: Raw) -> None:
    raw.join(BLOCK)
    if raw.visit():
        raw.visit()
        assert raw.heard[-1] == seat.Over(
            failed=True, reason="it answered too slowly while others waited", tokens=5
        )


def wants_what_is_past(raw: Raw) -> None:
    raw.join(HEAD)
    if raw.visit():
        raw.say(seat.Answer([], [], [seat.Want(raw.location(BLOCK), 0)], leaves=False))
        raw.visit()


def wants_nowhere(raw: Raw) -> None:
    raw.join(wants=[seat.Want(2**31 - 1, 2**31 - 1)] * 4000)
    raw.visit()


def watches_nowhere(raw: Raw) -> None:
    raw.join(watched=[2**31 - 1])
    raw.visit()


def changes_what_all_share(raw: Raw) -> None:
    raw.join(POSITIONS, BLOCK)
    if raw.visit():
        raw.say(seat.Answer([0], [], [seat.Want(raw.location(BLOCK), 0)], leaves=False))
        raw.visit()
        assert raw.heard[-1] == seat.Over(
            failed=True, reason="it changes a value that all rows share", tokens=5
        )


def replaces_with_nothing(raw: Raw) -> None:
    """What it never wrote."""
    raw.join(BLOCK)
    if raw.visit():
        raw.say(seat.Answer([0, 0, 0], [0, 0], [], leaves=False))
        raw.visit()


def never_reads(raw: Raw) -> None:
    raw.join(watched=list(range(len(raw.place.layout.locations))))
    time.sleep(0.3)


def floods(raw: Raw) -> None:
    """With requests and answers, and reads nothing."""
    raw.sock.setblocking(False)
    until = time.monotonic() + 0.7
    message = msgspec.msgpack.encode(seat.Answer([0], [], [], leaves=False))
    while time.monotonic() < until:
        try:
            raw.sock.send(message)
            raw.join(BLOCK)
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            return


def ends_what_never_began(raw: Raw) -> None:
    for _ in range(50):
        raw.say(seat.AloneOver())
    raw.join(BLOCK)


HOSTILE = [
    garbage,
    another_message,
    too_long,
    descriptors,
    answers_to_nothing,
    indices_out_of_range,
    joins_in_a_visit,
    garbage_in_a_visit,
    too_long_in_a_visit,
    leaves_in_a_visit,
    never_answers,
    wants_what_is_past,
    wants_nowhere,
    watches_nowhere,
    changes_what_all_share,
    replaces_with_nothing,
    never_reads,
    floods,
    ends_what_never_began,
]


@pytest.mark.parametrize("act", HOSTILE, ids=lambda act: act.__name__)
def test_an_honest_job_gets_its_own_bits(act: Hostile, driver: Room, gpt2: Site) -> None:
    began = time.monotonic()
    ended = driver.beside(honest(1), act)
    assert ended.misfit == ""
    assert ended.shared == 1
    assert fits(gpt2.solo(honest(1)), ended, TOLERANCE)
    assert time.monotonic() - began < 10
    assert driver.is_up()


def test_all_of_them_at_once(driver: Room, gpt2: Site) -> None:
    ended = driver.beside(honest(5), *(act for act in HOSTILE if act is not floods))
    assert ended.misfit == ""
    assert fits(gpt2.solo(honest(5)), ended, TOLERANCE)


def test_without_any_of_them(driver: Room, gpt2: Site) -> None:
    for program in (honest(1), honest_generation(1)):
        ended = driver.beside(program)
        assert ended.shared == 1
        assert fits(gpt2.solo(program), ended)


# -- what the model cannot be called with ------------------------------------------------------------------
IDS = prompt(40)
GENERATES: dict[str, Any] = {"generates": True}
REFUSED: dict[str, dict[str, Any]] = {
    "ids beyond the vocabulary": {"ids": (IDS * 0 + VOCABULARY).numpy().tobytes()},
    "ids below zero": {"ids": (IDS * 0 - 1).numpy().tobytes()},
    "ids of another size": {"ids": b"\0" * 8},
    "no ids": {"ids": b""},
    "more rows than ids": {"rows": 3},
    "more rows than may be": {"rows": 9, "ids": IDS.repeat(9, 1).numpy().tobytes()},
    "a mask of other numbers": {
        "mask": (IDS * 0 + 7).numpy().tobytes(),
        "positions": (IDS * 0).numpy().tobytes(),
    },
    "positions beyond the model's": {
        "mask": (IDS * 0).numpy().tobytes(),
        "positions": (IDS * 0 + 64).numpy().tobytes(),
    },
    "positions without padding": {"positions": (IDS * 0).numpy().tobytes()},
    "padding without positions": {"mask": (IDS * 0).numpy().tobytes()},
    "options without a generation": {"options": {"max_new_tokens": 2}},
    "a generation without end": GENERATES,
    "a generation of nothing": {**GENERATES, "options": {"max_new_tokens": 0}},
    "a generation below nothing": {**GENERATES, "options": {"max_new_tokens": -5}},
    "a huge generation": {**GENERATES, "options": {"max_new_tokens": 2**62}},
    "beyond the model's positions": {**GENERATES, "options": {"max_new_tokens": 60}},
    "a truth for a number": {**GENERATES, "options": {"max_new_tokens": True}},
    "sampling": {**GENERATES, "options": {"max_new_tokens": 2, "do_sample": True}},
    "an end beyond the vocabulary": {**GENERATES, "options": {"max_new_tokens": 2, "eos_token_id": 10**6}},
    "padding below zero": {**GENERATES, "options": {"max_new_tokens": 2, "pad_token_id": -1}},
    "an unknown option": {**GENERATES, "options": {"max_new_tokens": 2, "generation_config": "x"}},
    "a text": {**GENERATES, "options": {"max_new_tokens": 2, "repetition_penalty": "1"}},
}


@pytest.mark.parametrize("changed", REFUSED.values(), ids=REFUSED)
def test_what_the_model_is_not_to_be_called_with_runs_by_itself(
    changed: dict[str, Any], driver: Room
) -> None:
    raw = Raw(driver.seat(), driver.place)
    with raw.sock:
        raw.join(BLOCK, **changed)
        assert raw.hear() == seat.Alone()


NUMBERS = [float("nan"), float("inf"), -1.0, 0.0]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_with_which_generations_fail_harm_nobody_else(
    number: float, driver: Room, gpt2: Site
) -> None:
    def penalised(raw: Raw) -> None:
        options = {"max_new_tokens": 3, "repetition_penalty": number}
        raw.join(HEAD, **GENERATES, options=options)
        while raw.visit():
            raw.say(seat.Answer([], [], [], leaves=False))

    ended = driver.beside(honest_generation(7), penalised)
    assert ended.misfit == ""
    assert fits(gpt2.solo(honest_generation(7)), ended, TOLERANCE)


def test_more_new_tokens_at_least_than_at_most_harm_nobody_else(driver: Room, gpt2: Site) -> None:
    def contrary(raw: Raw) -> None:
        raw.join(HEAD, **GENERATES, options={"max_new_tokens": 3, "min_new_tokens": 9})
        while raw.visit():
            raw.say(seat.Answer([], [], [], leaves=False))

    ended = driver.beside(honest_generation(7), contrary)
    assert fits(gpt2.solo(honest_generation(7)), ended, TOLERANCE)


# -- what the agent hears ----------------------------------------------------------------------------------
def test_the_agent_hears_of_each_ones_part(driver: Room) -> None:
    driver.shared()

    def two_rows(raw: Raw) -> None:
        raw.join(BLOCK, rows=2, ids=torch.cat([IDS, IDS]).numpy().tobytes())
        if raw.visit():
            raw.say(seat.Answer([], [], [], leaves=False))
            raw.visit()

    ended = driver.beside(honest(1), two_rows)
    told = driver.shared()
    assert ended.tokens == 5
    assert sorted((each.rows, each.own_rows) for each in told) == [(3, 1), (3, 2)]
    assert len({each.seat for each in told}) == 2
    assert all(0 < each.seconds <= each.waited_s for each in told)


def stops(model: Any, backend: Backend) -> None:
    with model.generate(prompt(3), max_new_tokens=3, backend=backend) as tracer:
        hidden = model.transformer.h[0].output.save()
        tracer.stop()


def raises(model: Any, backend: Backend) -> None:
    with model.generate(prompt(3), max_new_tokens=3, backend=backend) as tracer:
        for _ in tracer.iter[0:2]:
            hidden = model.transformer.h[0].output[1000]


def puts_a_bad_shape(model: Any, backend: Backend) -> None:
    """A misfit."""
    with model.generate(prompt(3), max_new_tokens=3, backend=backend):
        model.transformer.h[0].output = model.transformer.h[0].output[:, :1]


@pytest.mark.parametrize("program", [stops, raises, puts_a_bad_shape], ids=lambda each: each.__name__)
def test_the_agent_hears_of_a_part_that_is_over_before_the_job_goes_on(program: Program, gpt2: Site) -> None:
    """The others are still in the pass: its part is what it took until then."""
    over = threading.Event()

    def goes_on(raw: Raw) -> None:
        steps = [seat.Want(raw.location(HEAD), step) for step in range(3)]
        raw.join(**GENERATES, options={"max_new_tokens": 3}, wants=steps)
        while raw.visit():
            over.wait(0.02)
            raw.say(seat.Answer([], [], steps, leaves=False))

    with room(gpt2) as made:
        raw, sock = Raw(made.seat(), gpt2), made.seat()
        other = threading.Thread(target=goes_on, args=(raw,))
        other.start()
        with suppress(JobFailed):
            made.run(program, sock)
        assert select.select([made.agent], [], [], 0)[0]
        over.set()
        other.join()
        first, second = made.shared()
        raw.sock.close()
    assert (first.seat, second.seat) == (2, 1)
    assert first.rows == second.rows == 2
    assert 0 < first.seconds < second.seconds


def test_a_job_that_stops_in_a_pass_is_asked_what_it_has_changed() -> None:
    def changes(model: Any, backend: Backend) -> None:
        with model.trace(prompt(1), backend=backend) as tracer:
            hidden = model.transformer.h[0].output.save()
            with torch.no_grad():
                model.transformer.h[1]._module.mlp.c_fc.weight.zero_()
            later = model.transformer.h[1].output.save()
            tracer.stop()

    with site(tiny.gpt2) as place, room(place) as made:
        assert "weight" in made.run(changes, made.seat()).misfit


def test_a_prompt_too_long_for_a_message_runs_by_itself(driver: Room, gpt2: Site) -> None:
    """What is said fits a packet; a job whose prompts do not is no misfit."""

    def many(model: Any, backend: Backend) -> None:
        with model.trace(prompt(3, 60).repeat(120, 1), backend=backend):
            logits = model.lm_head.output[0].save()

    def many_padded(model: Any, backend: Backend) -> None:
        with model.trace([" ".join(["w5"] * 50), *["w3 w4"] * 60], backend=backend):
            logits = model.lm_head.output[0].save()

    for program in (many, many_padded):
        ended = driver.beside(program)
        assert ended.misfit == ""
        assert ended.shared == 0
        assert fits(gpt2.solo(program), ended)


def test_when_the_driver_is_gone_a_job_runs_its_passes_itself(gpt2: Site) -> None:
    with room(gpt2) as made:
        sock = made.seat()
    ran = made.run(honest(1), sock)
    assert not ran.misfit
    assert ran.saved


def test_who_has_used_up_what_a_pass_waits_for_all_is_put_out_and_not_who_answers_a_little_later(
    gpt2: Site,
) -> None:
    parties, ends = [], []
    for number in range(2):
        ours, theirs = pipe.pair()
        parties.append(SealedParty(number, theirs, gpt2.layout, Bounds(gpt2.loaded.module, BOUNDS)))
        parties[-1].begin(array("i"))
        ends.append(ours)
    slow, quick = parties
    patience = Patience(1.6)  # 0.8 seconds for one visit, 3.2 for all
    with ends[0], ends[1], slow.sock, quick.sock:
        for _ in range(4):
            assert _waits(patience, slow, ends[0], 0.7)
        assert _waits(patience, quick, ends[1], 0.6)
        assert (slow.dropped, quick.dropped) == (True, False)
        slow.offer(Visit(0, 0, 0, [], [], [], []))  # the pass hears of it when it asks for an answer
        with pytest.raises(Left):
            slow.answer()
        told = Raw(ends[0], gpt2)
        assert isinstance(told.hear(0.1), seat.Over)
        assert told.hear(0.1) is None


def test_for_whom_there_is_no_memory_is_put_out_alone(gpt2: Site) -> None:
    """An exception there would end the pass for all."""
    ours, theirs = pipe.pair()
    party = SealedParty(1, theirs, gpt2.layout, Bounds(gpt2.loaded.module, BOUNDS))
    party.begin(array("i"))
    shown = Visit(0, 0, 0, [torch.ones(2, 3)], [Identity(1, 1, 2)], [], [])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ours, theirs:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            party.offer(shown)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with pytest.raises(Left):
            party.answer()
        over = Raw(ours, gpt2).hear(0.1)
        assert over.failed
        assert over.reason == "there is no room for what it waits for (Too many open files)"
        # In the next pass it gets what it did not get in this one.
        party.begin(array("i"))
        party.offer(shown)
        raw = Raw(ours, gpt2)
        assert [type(raw.hear(0.1)) for _ in range(2)] == [seat.Memory, seat.Visit]


def _waits(patience: Patience, party: SealedParty, end: socket.socket, seconds: float) -> bool:
    """Whether the pass waits for a party that answers after so long."""
    answers = threading.Timer(seconds, pipe.send, (end, seat.Answer([], [], [], leaves=False)))
    answers.start()
    waited = patience.wait_for(party)
    answers.join()
    party.hear()
    return waited


def test_who_has_held_a_pass_of_its_own_for_long_makes_nobody_patient(gpt2: Site) -> None:
    """How long that was is for it to say; the driver waits for answers by what its own passes take."""

    def holds(raw: Raw) -> None:
        raw.say(seat.AskAlone())
        raw.hear()
        time.sleep(4)
        raw.say(seat.AloneOver())

    def slow(raw: Raw) -> None:
        raw.join(BLOCK)
        raw.visit()
        raw.hear(3)
        assert isinstance(raw.heard[-1], seat.Over | type(None))

    with room(gpt2) as made:
        for _ in range(2):
            raw = Raw(made.seat(), gpt2)
            with raw.sock:
                holds(raw)
        began = time.monotonic()
        ended = made.beside(honest(1), slow)
        assert time.monotonic() - began < 1.9  # half of what was said would be 2
        assert ended.misfit == ""
