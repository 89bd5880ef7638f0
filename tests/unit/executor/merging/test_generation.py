"""Generations that share passes: rows end at different steps, and each job sees as many steps as alone."""

import os
import threading
from typing import Any

import pytest
import torch
from nnsight.tracing.backend import Backend

from edif.executor.merging.hub import Hub
from edif.wire import seat
from tests.unit.executor.merging.jobs import BOUNDS, Program, Site, all_fit, fits, payload
from tests.unit.executor.merging.seats import Raw, room
from tests.unit.executor.merging.tiny import TOLERANCE, prompt

# ruff: noqa: F841 - what a block saves is sent back by its name
OF_NNSIGHT = pytest.mark.filterwarnings(
    "ignore:.*was requested:UserWarning", "ignore:.*the run:UserWarning", "ignore:model.generator.output"
)
NEW = 6
STARTS = (1, 11, 24, 37)


def steps(start: int, new: int = NEW, **options: Any) -> Program:
    """Reads every step."""

    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(start), max_new_tokens=new, **options, backend=backend) as tracer:
            seen = [].save()
            for _ in tracer.iter[:]:
                seen.append(model.lm_head.output[:, -1].argmax(-1))

    return program


def result(start: int, new: int = NEW, **options: Any) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(start), max_new_tokens=new, **options, backend=backend) as tracer:
            first = model.lm_head.output.save()
            ids = tracer.result.save()

    return program


def generator(start: int, new: int = NEW, **options: Any) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(start), max_new_tokens=new, **options, backend=backend):
            ids = model.generator.output.save()

    return program


def streamed(start: int, new: int = NEW, **options: Any) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(start), max_new_tokens=new, **options, backend=backend) as tracer:
            tokens = [].save()
            for _ in tracer.iter[:]:
                tokens.append(model.generator.streamer.output.clone())

    return program


def steered(start: int, new: int = NEW, **options: Any) -> Program:
    """Edits every step, which goes on in the key-value cache."""

    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(start), max_new_tokens=new, **options, backend=backend) as tracer:
            seen = [].save()
            for _ in tracer.all():
                model.transformer.h[0].output[:] += 3
                seen.append(model.lm_head.output[:, -1].argmax(-1))

    return program


def replaced(start: int, new: int = NEW, **options: Any) -> Program:
    """Puts a tensor of its own in place of the model's at every step, and uses it for something else at the next."""

    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(start), max_new_tokens=new, **options, backend=backend) as tracer:
            seen = [].save()
            own = torch.zeros(1)
            for _ in tracer.iter[:]:
                hidden = model.transformer.h[0].output
                own.zero_()
                own = hidden + 3
                model.transformer.h[0].output = own
                seen.append(model.lm_head.output[:, -1].argmax(-1))

    return program


def bounded(start: int, new: int = NEW, **options: Any) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(start), max_new_tokens=new, **options, backend=backend) as tracer:
            seen = [].save()
            for _ in tracer.iter[1:3]:
                seen.append(model.transformer.h[1].output)

    return program


def cached(start: int, new: int = NEW, **options: Any) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(start), max_new_tokens=new, **options, backend=backend) as tracer:
            cache = tracer.cache(modules=[model.transformer.h[1].mlp]).save()

    return program


READERS = [steps, result, generator, streamed, steered, replaced, bounded, cached]


@pytest.fixture(scope="module")
def end(gpt2: Site) -> int:
    """A token at which the first prompt ends early, and not every other one does."""
    ids = [gpt2.solo(result(start)).saved["ids"][0, 5:].tolist() for start in STARTS]
    for token in ids[0][1:4]:
        if token not in ids[0][:1] and sum(token in each for each in ids) < len(ids):
            return int(token)
    pytest.fail(f"no such token in {ids}")


@OF_NNSIGHT
@pytest.mark.parametrize("kind", READERS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("early", [False, True], ids=["to the last token", "some end early"])
def test_as_alone(kind: Any, early: bool, end: int, gpt2: Site) -> None:
    options = {"eos_token_id": end} if early else {}
    all_fit(gpt2, [kind(start, **options) for start in STARTS], TOLERANCE)


def test_rows_that_end_early_are_shorter_and_others_are_not(end: int, gpt2: Site) -> None:
    ended = gpt2.merged(*(result(start, eos_token_id=end) for start in STARTS))
    lengths = [each.saved["ids"].shape[1] for each in ended]
    assert lengths[0] < 5 + NEW
    assert max(lengths) == 5 + NEW
    assert int(ended[0].saved["ids"][0, -1]) == end
    assert ended[0].tokens < max(each.tokens for each in ended), "nobody is charged for steps after its end"


def test_a_job_of_two_rows_goes_on_until_both_have_ended(end: int, gpt2: Site) -> None:
    def pair(model: Any, backend: Backend) -> None:
        ids = torch.cat([prompt(STARTS[0]), prompt(STARTS[1])])
        with model.generate(ids, max_new_tokens=NEW, eos_token_id=end, backend=backend) as tracer:
            ids = tracer.result.save()

    all_fit(gpt2, [pair, result(STARTS[2], eos_token_id=end), pair], TOLERANCE)


@OF_NNSIGHT
def test_who_has_ended_waits_for_nobody(end: int, gpt2: Site) -> None:
    """It goes on in the course of the pass, whatever it reads of it, and bears its part until then."""
    for kind in (result, generator, streamed, cached):
        early, *_, last = gpt2.merged(*(kind(start, eos_token_id=end) for start in STARTS))
        assert early.misfit == last.misfit == ""
        assert early.passes[0].seconds < last.passes[0].seconds, kind


@OF_NNSIGHT
def test_what_it_has_generated_is_its_own_to_change(end: int, gpt2: Site) -> None:
    """The others' generation goes on from the ids."""

    def changes(start: int) -> Program:
        def program(model: Any, backend: Backend) -> None:
            with model.generate(
                prompt(start), max_new_tokens=NEW, eos_token_id=end, backend=backend
            ) as tracer:
                model.generator.output[:] = 9
                model.generator.output[:, 0] = 8
                ids = tracer.result.save()

        return program

    all_fit(gpt2, [changes(STARTS[0]), *(result(start, eos_token_id=end) for start in STARTS[1:])], TOLERANCE)


def test_who_reads_no_further_waits_for_nobody(gpt2: Site) -> None:
    def first_step(model: Any, backend: Backend) -> None:
        with model.generate(prompt(STARTS[0]), max_new_tokens=NEW, backend=backend):
            hidden = model.transformer.h[0].output.save()

    early, last = all_fit(gpt2, [first_step, result(STARTS[1])], TOLERANCE)
    assert early.passes[0].seconds < last.passes[0].seconds


def test_who_raises_or_stops_waits_for_nobody(gpt2: Site) -> None:
    def stopping(model: Any, backend: Backend) -> None:
        with model.generate(prompt(3), max_new_tokens=NEW, backend=backend) as tracer:
            hidden = model.transformer.h[0].output.save()
            tracer.stop()

    def raising(model: Any, backend: Backend) -> None:
        with model.generate(prompt(3), max_new_tokens=NEW, backend=backend):
            hidden = model.transformer.h[0].output[1000]

    *early, last = gpt2.merged(stopping, raising, result(STARTS[1]))
    assert early[1].failed
    assert all(each.passes[0].seconds < last.passes[0].seconds for each in early)


def test_who_goes_on_meanwhile_may_want_another_pass(end: int, gpt2: Site) -> None:
    """It waits for that until this one is over."""

    def twice(start: int, options: dict[str, Any]) -> Program:
        def program(model: Any, backend: Backend) -> None:
            with model.session(backend=backend):
                with model.generate(prompt(start), max_new_tokens=NEW, eos_token_id=end) as tracer:
                    ids = tracer.result.save()
                with model.generate(prompt(start + 2), max_new_tokens=2, **options) as tracer:
                    more = tracer.result.save()

        return program

    others = [result(start, eos_token_id=end) for start in STARTS[1:]]
    for options in ({}, {"do_sample": False, "num_beams": 2}):
        all_fit(gpt2, [twice(STARTS[0], options), *others], TOLERANCE)


def test_what_the_running_of_a_job_raises_in_the_middle_of_a_pass_ends_the_process(
    end: int, gpt2: Site
) -> None:
    """As at its end: the agent hears of it, and the others are run again."""
    programs = [result(start, eos_token_id=end) for start in STARTS]
    sent = [payload(gpt2.client, each) for each in programs]

    def no_room(tenant: Any) -> None:
        gpt2._job(sent[0], [])(tenant)
        raise OSError("no room for the result")

    if (pid := os.fork()) == 0:
        code = 1
        try:
            hub = Hub(gpt2.loaded, gpt2.layout, BOUNDS, gpt2.untouched)
            hub.run([no_room, *(gpt2._job(each, []) for each in sent[1:])])
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what the test asks about
            code = 0 if isinstance(error.__cause__, OSError) else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_sealed_one_that_has_ended_waits_for_nobody(end: int, gpt2: Site) -> None:
    over = threading.Event()
    head, options = "model.lm_head.output", {"max_new_tokens": NEW, "eos_token_id": end}
    last = next(start for start in STARTS if end not in gpt2.solo(result(start)).saved["ids"][0, 5:])

    def goes_on(raw: Raw) -> None:
        steps = [seat.Want(raw.location(head), step) for step in range(NEW)]
        ids = prompt(last).numpy().tobytes()
        raw.join(generates=True, ids=ids, options=options, wants=steps)
        while raw.visit():
            over.wait(0.02)
            raw.say(seat.Answer([], [], steps, leaves=False))

    with room(gpt2) as made:
        raw, sock = Raw(made.seat(), gpt2), made.seat()
        other = threading.Thread(target=goes_on, args=(raw,))
        other.start()
        ended = made.run(result(STARTS[0], eos_token_id=end), sock)
        over.set()
        other.join()
        raw.sock.close()
        first, second = made.shared()
    assert fits(gpt2.solo(result(STARTS[0], eos_token_id=end)), ended, TOLERANCE)
    assert (first.seat, second.seat) == (2, 1)
    assert first.rows == second.rows == 2
    assert 0 < first.seconds < second.seconds


def test_a_stop_ends_only_the_own_part(gpt2: Site) -> None:
    def stopping(model: Any, backend: Backend) -> None:
        with model.generate(prompt(3), max_new_tokens=NEW, backend=backend) as tracer:
            for _ in tracer.iter[0:2]:
                last = model.lm_head.output.save()
            tracer.stop()

    all_fit(gpt2, [stopping, result(STARTS[0])], TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"use_cache": True},
        {"num_beams": 1},
        {"repetition_penalty": 1.3},
        {"min_new_tokens": 3},
        {"pad_token_id": 2},
    ],
    ids=str,
)
def test_options_with_which_rows_come_out_as_alone(options: dict[str, Any], gpt2: Site) -> None:
    all_fit(gpt2, [result(start, **options) for start in STARTS[:2]], TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [{"do_sample": True}, {"num_beams": 2}, {"output_scores": True, "return_dict_in_generate": True}],
    ids=str,
)
def test_other_options_are_for_a_pass_of_ones_own(options: dict[str, Any], gpt2: Site) -> None:
    def program(model: Any, backend: Backend) -> None:
        with model.generate(prompt(3), max_new_tokens=2, **options, backend=backend):
            first = model.lm_head.output.save()

    ended = gpt2.merged(program, program)
    assert [each.shared for each in ended] == [0, 0]
    assert [each.failed or each.misfit for each in ended] == ["", ""]


def test_options_that_differ_are_not_mixed(gpt2: Site) -> None:
    programs = [result(1, 2), result(11, 3), result(21, 2, repetition_penalty=1.5), result(31, 2)]
    ended = gpt2.merged(*programs)
    assert [each.shared for each in ended] == [1, 0, 0, 1]
    for program, each in zip(programs, ended, strict=True):
        assert fits(gpt2.solo(program), each, TOLERANCE)


def test_prompts_of_different_lengths_in_one_job(gpt2: Site) -> None:
    def padded(*words: str) -> Program:
        def program(model: Any, backend: Backend) -> None:
            with model.generate(list(words), max_new_tokens=4, backend=backend) as tracer:
                positions = model.transformer.wpe.output.save()
                ids = tracer.result.save()

        return program

    all_fit(gpt2, [padded("w2 w3 w4", "w5"), padded("w9", "w8 w7 w6")], TOLERANCE)


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_other_architectures(architecture: str, request: pytest.FixtureRequest) -> None:
    place: Site = request.getfixturevalue(architecture)
    ended = all_fit(place, [result(1), result(11), result(21)], TOLERANCE)
    assert {each.saved["ids"].shape for each in ended} == {(1, 5 + NEW)}
