"""Jobs with prompts of different length share a pass, and see of it what they see alone, within the tolerance of padding."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from nnsight.tracing.backend import Backend

from edif.wire import seat
from tests.unit.executor.merging import tiny
from tests.unit.executor.merging.jobs import Program, Site, all_fit, fits, site
from tests.unit.executor.merging.seats import Raw, room
from tests.unit.executor.merging.tiny import TOLERANCE, prompt

# ruff: noqa: F841 - what a block saves is sent back by its name


class Names:
    """What a family calls its parts."""

    def __init__(self, family: str) -> None:
        self.gpt2 = family == "gpt2"

    def blocks(self, model: Any) -> Any:
        return model.transformer.h if self.gpt2 else model.model.layers

    def attention(self, block: Any) -> Any:
        return block.attn if self.gpt2 else block.self_attn

    def embedded(self, model: Any) -> Any:
        """Values that are the same for all rows alone, and each row's own with padding."""
        return model.transformer.wpe.output if self.gpt2 else model.model.rotary_emb.output[0]


Served = tuple[Site, Names]


@pytest.fixture(scope="module", params=["gpt2-sdpa", "llama-eager"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    yield from serve(request.param)


@pytest.fixture(scope="module", params=["gpt2-eager", "llama-sdpa"])
def served_otherwise(request: pytest.FixtureRequest) -> Iterator[Served]:
    yield from serve(request.param)


def serve(name: str) -> Iterator[Served]:
    family, implementation = name.split("-")
    with site(lambda: tiny.attending(getattr(tiny, family), implementation), padding=True) as made:
        yield made, Names(family)


def reads(names: Names, start: int, tokens: int, rows: int = 1) -> Program:
    def program(model: Any, backend: Backend) -> None:
        blocks = names.blocks(model)
        with model.trace(prompts(start, tokens, rows), backend=backend) as tracer:
            embedded = names.embedded(model).save()
            inputs = blocks[0].inputs[1]["position_ids"].save()
            hidden = blocks[0].output.save()
            attended = names.attention(blocks[1]).output.save()
            mlp = blocks[1].mlp.input.save()
            logits = model.lm_head.output.save()
            result = tracer.result.logits.save()

    return program


def prompts(start: int, tokens: int, rows: int) -> torch.Tensor:
    return torch.cat([prompt(start + 5 * row, tokens) for row in range(rows)])


def edits(names: Names, start: int, tokens: int, rows: int = 1) -> Program:
    """In place and replaced, what goes in and what comes out."""

    def program(model: Any, backend: Backend) -> None:
        blocks = names.blocks(model)
        with model.trace(prompts(start, tokens, rows), backend=backend):
            blocks[0].input[:, 0] *= 2
            blocks[0].output[:, -1] = 1.5
            attended = names.attention(blocks[1])
            attended.output = (attended.output[0] * 0.5, *attended.output[1:])
            blocks[1].mlp.input = blocks[1].mlp.input.flip(1)
            after = blocks[1].output.save()
            logits = model.lm_head.output.save()

    return program


def edits_ids(names: Names, start: int, tokens: int, rows: int = 1) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompts(start, tokens, rows), backend=backend):
            (model.transformer.wte if names.gpt2 else model.model.embed_tokens).input[:, 0] = 9
            logits = model.lm_head.output.save()

    return program


def late(names: Names, start: int, tokens: int, rows: int = 1) -> Program:
    """One tensor under two names: what is written to the one shows in the other."""

    def program(model: Any, backend: Backend) -> None:
        blocks = names.blocks(model)
        with model.trace(prompts(start, tokens, rows), backend=backend):
            hidden = blocks[0].output
            hidden[:, -1] = 0
            following = blocks[1].input.save()
            logits = model.lm_head.output.save()

    return program


def attention_weights(names: Names, start: int, tokens: int, rows: int = 1) -> Program:
    def program(model: Any, backend: Backend) -> None:
        blocks = names.blocks(model)
        with model.trace(prompts(start, tokens, rows), backend=backend):
            weights = names.attention(blocks[0]).output[1]
            weights = None if weights is None else weights.save()
            mask = names.attention(blocks[1]).inputs[1]["attention_mask"]
            mask = None if mask is None else mask.save()

    return program


def patches(names: Names, start: int, tokens: int, rows: int = 1) -> Program:
    """From one prompt to another of the same length, and all of the job's rows at once."""

    def program(model: Any, backend: Backend) -> None:
        blocks = names.blocks(model)
        with model.trace(backend=backend) as tracer:
            barrier = tracer.barrier(2)
            with tracer.invoke(prompts(start, tokens, rows)):
                clean = blocks[0].output[:, 1]
                barrier()
                one = model.lm_head.output.save()
            with tracer.invoke(prompts(start + 9, tokens, rows)):
                barrier()
                blocks[0].output[:, 1] = clean
                two = model.lm_head.output.save()
            with tracer.invoke():
                both = blocks[1].output.save()

    return program


def caches(names: Names, start: int, tokens: int, rows: int = 1) -> Program:
    def program(model: Any, backend: Backend) -> None:
        blocks = names.blocks(model)
        with model.trace(prompts(start, tokens, rows), backend=backend) as tracer:
            cache = tracer.cache(modules=[blocks[0].mlp, model.lm_head], include_inputs=True).save()
            blocks[0].output[:, 1:] = 0

    return program


def keys_and_values(names: Names, start: int, tokens: int, rows: int = 1) -> Program:
    """What each layer has put into the key-value cache."""

    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompts(start, tokens, rows), backend=backend) as tracer:
            cache = tracer.result.past_key_values
            keys = [layer.keys for layer in cache.layers].save()
            values = [layer.values for layer in cache.layers].save()

    return program


def ends(names: Names, start: int, tokens: int, rows: int = 1) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompts(start, tokens, rows), backend=backend) as tracer:
            hidden = names.blocks(model)[0].output.save()
            tracer.stop()

    return program


Kind = Callable[[Names, int, int, int], Program]
KINDS: list[Kind] = [reads, edits, edits_ids, late, attention_weights, patches, caches, keys_and_values, ends]
LENGTHS = ((1, 5, 1), (11, 7, 1), (2, 4, 3), (9, 7, 2))
"""First token, tokens and rows of jobs that run together."""


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.__name__)
def test_as_alone(kind: Kind, served: Served) -> None:
    place, names = served
    ended = all_fit(place, [kind(names, *each) for each in LENGTHS], TOLERANCE)
    if kind is reads:
        assert [each.tokens for each in ended] == [5, 7, 12, 14], "padding is not charged"


def test_all_kinds_in_one_pass(served_otherwise: Served) -> None:
    place, names = served_otherwise
    lengths = [LENGTHS[number % len(LENGTHS)] for number in range(len(KINDS))]
    all_fit(place, [kind(names, *each) for kind, each in zip(KINDS, lengths, strict=True)], TOLERANCE)


@pytest.mark.parametrize("tokens", [(16, 31), (17, 25, 30)], ids=str)
def test_longer_prompts(tokens: tuple[int, ...], served: Served) -> None:
    place, names = served
    all_fit(place, [edits(names, 3 * each, each) for each in tokens], TOLERANCE)


def test_what_alone_is_the_same_for_all_rows_is_not_changed(served: Served) -> None:
    place, names = served

    def changes(model: Any, backend: Backend) -> None:
        with model.trace(prompt(3, 5), backend=backend):
            names.embedded(model)[:] *= 0.5
            logits = model.lm_head.output.save()

    ended = place.merged(changes, reads(names, 5, 7), reads(names, 7, 7))
    assert ended[0].misfit == "it changes a value that all rows share"
    assert [each.misfit for each in ended[1:]] == ["", ""]


def test_prompts_of_unlike_length_are_not_mixed(served: Served) -> None:
    """Padding is less than as much again."""
    place, names = served
    ended = place.merged(*(reads(names, 1, tokens) for tokens in (4, 8, 16, 7, 15)))
    assert [each.shared for each in ended] == [1, 1, 0, 1, 1]


def test_a_prompt_beyond_the_reach_of_the_models_attention_is_not_padded(served: Served) -> None:
    place, names = served
    longest, place.layout.longest = place.layout.longest, 6
    try:
        ended = place.merged(*(reads(names, 1, tokens) for tokens in (5, 6, 7, 7)))
    finally:
        place.layout.longest = longest
    assert [each.shared for each in ended] == [1, 1, 1, 1]
    assert fits(place.solo(reads(names, 1, 7)), ended[2]), "with its like, and the bits of a pass alone"


NEW = 6


def generates(names: Names, start: int, tokens: int, rows: int = 1, **options: Any) -> Program:
    """Every step is read and edited."""

    def program(model: Any, backend: Backend) -> None:
        ids = prompts(start, tokens, rows)
        with model.generate(max_new_tokens=NEW, **options, backend=backend) as tracer:
            with tracer.invoke(ids):
                seen = [].save()
                for _ in tracer.iter[:]:
                    names.blocks(model)[0].output[:] += 0.5
                    seen.append(names.attention(names.blocks(model)[1]).output[0])
                    seen.append(names.blocks(model)[1].output[:, -1])
                    seen.append(model.lm_head.output[:, -1].argmax(-1))
            with tracer.invoke():
                ids = tracer.result.save()

    return program


def generated(names: Names, start: int, tokens: int, rows: int = 1, **options: Any) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.generate(
            prompts(start, tokens, rows), max_new_tokens=NEW, **options, backend=backend
        ) as tracer:
            ids = tracer.result.save()

    return program


def streams(names: Names, start: int, tokens: int, rows: int = 1, **options: Any) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.generate(
            prompts(start, tokens, rows), max_new_tokens=NEW, **options, backend=backend
        ) as tracer:
            seen = [].save()
            for _ in tracer.iter[:]:
                seen.append(model.generator.streamer.output.clone())

    return program


def of_a_step(names: Names, start: int, tokens: int, rows: int = 1, **options: Any) -> Program:
    """What has all the tokens so far in one of its dimensions."""

    def program(model: Any, backend: Backend) -> None:
        with model.generate(
            prompts(start, tokens, rows), max_new_tokens=NEW, **options, backend=backend
        ) as tracer:
            seen = [].save()
            for _ in tracer.iter[1:3]:
                attention = names.attention(names.blocks(model)[1])
                seen.append(attention.inputs[1]["attention_mask"])
                seen.append(attention.inputs[1]["position_ids"])
                seen.append(attention.output[1])

    return program


@pytest.fixture(scope="module")
def end(served: Served) -> int:
    """A token at which one of the jobs ends early, and not every other one does."""
    place, names = served
    ids = [place.solo(generated(names, *each)).saved["ids"][:, each[1] :].tolist() for each in LENGTHS]
    for token in ids[0][0][1:4]:
        if token not in ids[0][0][:1] and sum(token in row for rows in ids for row in rows) < 7:
            return int(token)
    pytest.fail(f"no such token in {ids}")


@pytest.mark.filterwarnings(
    "ignore:.*was requested:UserWarning", "ignore:.*the run:UserWarning", "ignore:model.generator.output"
)
@pytest.mark.parametrize("kind", [generates, generated, streams, of_a_step], ids=lambda each: each.__name__)
@pytest.mark.parametrize("early", [False, True], ids=["to the last token", "some end early"])
def test_generation(kind: Any, early: bool, end: int, served: Served) -> None:
    place, names = served
    options = {"eos_token_id": end} if early else {}
    all_fit(place, [kind(names, *each, **options) for each in LENGTHS], TOLERANCE)


@pytest.mark.filterwarnings("ignore:.*was requested:UserWarning", "ignore:.*the run:UserWarning")
def test_generation_with_the_other_implementation(served_otherwise: Served) -> None:
    place, names = served_otherwise
    kinds = (generates, of_a_step, generates, generated)
    all_fit(place, [kind(names, *each) for kind, each in zip(kinds, LENGTHS, strict=True)], TOLERANCE)


def test_what_depends_on_the_tokens_of_a_prompt_is_not_padded(served: Served) -> None:
    place, names = served
    programs = [generated(names, 1, tokens, repetition_penalty=1.3) for tokens in (5, 7)]
    assert [each.shared for each in place.merged(*programs)] == [0, 0]


def test_a_router_shows_one_row_its_own_tokens_and_several_none() -> None:
    def reads_gate(start: int, tokens: int, rows: int = 1) -> Program:
        def program(model: Any, backend: Backend) -> None:
            with model.trace(prompts(start, tokens, rows), backend=backend):
                gate = model.model.layers[0].mlp.gate.output.save()
                experts = model.model.layers[0].mlp.experts.output.save()

        return program

    with site(tiny.mixtral, padding=True) as place:
        all_fit(place, [reads_gate(1, 5), reads_gate(3, 7), reads_gate(9, 6)], TOLERANCE)
        ended = place.merged(reads_gate(1, 5, rows=2), reads_gate(3, 7))
        assert "cannot be told apart" in ended[0].misfit
        assert fits(place.solo(reads_gate(3, 7)), ended[1], TOLERANCE)


# -- sealed ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def gpt2_padded() -> Iterator[Site]:
    with site(tiny.gpt2, padding=True) as made:
        yield made


SHAPES = {
    "model.transformer.h.0.output": [1, 7, 64],
    "model.transformer.h.1.attn.input": [[1, 7, 64], [1, 7]],
    "model.lm_head.output": [1, 7, tiny.VOCABULARY],
}
"""Of what a job with a prompt of seven tokens is shown."""


@pytest.mark.parametrize(("tokens", "rows"), [(5, 1), (6, 2)])
def test_sealed_jobs(tokens: int, rows: int, gpt2_padded: Site) -> None:
    """One with a shorter prompt, and one that has no nnsight and says what it is shown."""
    shown: dict[str, Any] = {}

    def other(raw: Raw) -> None:
        ids = prompt(40, 7)
        raw.join(*SHAPES, tokens=7, ids=ids.numpy().tobytes())
        for name in SHAPES:
            visit = raw.visit()
            shapes = [leaf.shape for leaf in visit.leaves]
            shown[name] = shapes if len(shapes) > 1 else shapes[0]
            raw.say(seat.Answer([], [], [seat.Want(raw.location(each), 0) for each in SHAPES], leaves=False))
        raw.hear()

    program = edits(Names("gpt2"), 1, tokens, rows)
    with room(gpt2_padded) as made:
        ended = made.beside(program, other)
        told = made.shared()
    assert shown == SHAPES
    assert fits(gpt2_padded.solo(program), ended, TOLERANCE)
    assert ended.tokens == rows * tokens
    assert {(each.rows, each.own_rows) for each in told} == {(rows + 1, rows), (rows + 1, 1)}


@pytest.mark.parametrize("early", [False, True], ids=["to the last token", "some end early"])
def test_sealed_generation(early: bool, gpt2_padded: Site) -> None:
    names = Names("gpt2")
    ids = gpt2_padded.solo(generated(names, 1, 5)).saved["ids"][0, 5:].tolist()
    end = ids[2] if early else tiny.EOS
    options = {"max_new_tokens": NEW, "eos_token_id": end}

    def other(raw: Raw) -> None:
        raw.join("result", generates=True, tokens=7, ids=prompt(40, 7).numpy().tobytes(), options=options)
        visit = raw.visit()
        assert visit.leaves[0].shape[0] == 1
        raw.say(seat.Answer([], [], [], leaves=False))
        raw.hear()

    program = generated(names, 1, 5, eos_token_id=end)
    with room(gpt2_padded) as made:
        ended = made.beside(program, other)
        told = made.shared()
    assert {each.rows for each in told} == {2}
    assert fits(gpt2_padded.solo(program), ended)
    assert (ended.saved["ids"].shape[1] < 5 + NEW) is early
