"""Jobs that share passes come out with the bits that they have alone."""

from typing import Any

import pytest
from nnsight.tracing.backend import Backend

from tests.unit.executor.merging.jobs import BOUNDS, Program, Site, all_fit, fits, same
from tests.unit.executor.merging.tiny import TOLERANCE, prompt

# ruff: noqa: F841 - what a block saves is sent back by its name


def reads(start: int, tokens: int = 5) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start, tokens), backend=backend) as tracer:
            hidden = model.transformer.h[0].output.save()
            attention = model.transformer.h[1].attn.output.save()
            logits = model.lm_head.output.save()
            result = tracer.result.logits.save()

    return program


def edits(start: int, layer: int, tokens: int = 5) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start, tokens), backend=backend):
            model.transformer.h[layer].output[:, -1] = 0
            model.transformer.h[2].mlp.output = model.transformer.h[2].mlp.output * 2
            logits = model.lm_head.output.save()

    return program


def invokes(start: int) -> Program:
    """A patch from one prompt to another, over a barrier."""

    def program(model: Any, backend: Backend) -> None:
        with model.trace(backend=backend) as tracer:
            barrier = tracer.barrier(2)
            with tracer.invoke(prompt(start)):
                clean = model.transformer.h[1].output[:, -1]
                barrier()
                one = model.lm_head.output.save()
            with tracer.invoke(prompt(start + 9)):
                barrier()
                model.transformer.h[1].output[:, -1] = clean
                two = model.lm_head.output.save()

    return program


def whole_batch(start: int) -> Program:
    """With an invoke that sees all rows of the job."""

    def program(model: Any, backend: Backend) -> None:
        with model.trace(backend=backend) as tracer:
            with tracer.invoke(prompt(start)):
                one = model.lm_head.output.save()
            with tracer.invoke(prompt(start + 4)):
                two = model.transformer.h[0].output.save()
            with tracer.invoke():
                both = model.lm_head.output.save()

    return program


def session(start: int) -> Program:
    """Two traces, the second of which uses what the first has read."""

    def program(model: Any, backend: Backend) -> None:
        with model.session(backend=backend):
            with model.trace(prompt(start)):
                first = model.transformer.h[1].output[:, -1].save()
            with model.trace(prompt(start + 5)):
                model.transformer.h[1].output[:, -1] = first
                second = model.lm_head.output.save()

    return program


def caches(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend) as tracer:
            cache = tracer.cache(modules=[model.transformer.h[0], model.transformer.h[2].mlp]).save()
            model.transformer.h[1].output[:, 1:] = 0
            logits = model.lm_head.output.save()

    return program


def stops(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend) as tracer:
            hidden = model.transformer.h[0].output.save()
            tracer.stop()

    return program


def raises(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            hidden = model.transformer.h[0].output.save()
            raise KeyError("of its own making")

    return program


def out_of_order(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            late = model.transformer.h[1].output.save()
            early = model.transformer.h[0].output.save()

    return program


def prints(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            print("before", start)
            print("hidden", model.transformer.h[0].output.sum().item(), start)
            print("after", model.lm_head.output.sum().item(), start)

    return program


def lens(start: int) -> Program:
    """Modules that the job calls itself."""

    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            hidden = model.transformer.h[0].output
            early = model.lm_head(model.transformer.ln_f(hidden)).argmax(-1).save()
            logits = model.lm_head.output.save()

    return program


def padded(*words: str) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(list(words), backend=backend):
            positions = model.transformer.wpe.output.save()
            hidden = model.transformer.h[1].output.save()
            logits = model.lm_head.output.save()

    return program


def reads_inputs(start: int) -> Program:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(start), backend=backend):
            ids = model.transformer.wte.input.save()
            positions = model.transformer.wpe.output.save()
            args = model.transformer.h[0].inputs[0][0].save()
            mlp = model.transformer.h[0].mlp.input.save()

    return program


TOGETHER: dict[str, list[Program]] = {
    "reads": [reads(1), reads(11), reads(21), reads(31)],
    "edits": [edits(1, 0), edits(11, 1), reads(21), edits(31, 0)],
    "invokes": [invokes(1), invokes(13), reads(5), whole_batch(40)],
    "sessions": [session(1), session(13), reads(5)],
    "caches": [caches(1), caches(13), edits(5, 0)],
    "stops": [stops(1), reads(13), stops(25)],
    "raises": [raises(1), reads(13), raises(25)],
    "prints": [prints(1), prints(13), reads(25)],
    "own calls of modules": [lens(1), lens(13)],
    "padded": [padded("w2 w3 w4", "w5"), padded("w9", "w8 w7 w6"), padded("w3", "w3 w3 w4")],
    "inputs": [reads_inputs(1), reads_inputs(13)],
}


@pytest.mark.parametrize("programs", TOGETHER.values(), ids=TOGETHER)
def test_equal_bits(programs: list[Program], gpt2: Site) -> None:
    all_fit(gpt2, programs)


@pytest.mark.parametrize("programs", TOGETHER.values(), ids=TOGETHER)
def test_equal_bits_in_a_pass_for_oneself(programs: list[Program], gpt2: Site) -> None:
    always = type(BOUNDS)(32, 4096, TOLERANCE, 1, always=True)
    for program in programs:
        (ended,) = gpt2.merged(program, bounds=always)
        assert ended.shared >= 1
        assert fits(gpt2.solo(program), ended)


def test_everybody_at_once(gpt2: Site) -> None:
    programs = [each for name in TOGETHER if name != "padded" for each in TOGETHER[name]]
    ended = all_fit(gpt2, programs, TOLERANCE)
    assert all(each.tokens >= 5 for each in ended)


def test_sixteen_rows_of_sixteen_tokens(gpt2: Site) -> None:
    all_fit(gpt2, [reads(start, 16) for start in range(16)], TOLERANCE)


def test_a_line_of_ones_own_that_is_out_of_order(gpt2: Site) -> None:
    """The error may be one of shared passes only: it is run again, and the others go on."""
    ended, other = gpt2.merged(out_of_order(1), reads(13))
    assert ended.misfit == "it raised OutOfOrderError"
    assert fits(gpt2.solo(reads(13)), other)


def test_what_is_not_alike_is_not_mixed(gpt2: Site) -> None:
    programs = [reads(1, 5), reads(2, 6), reads(3, 5), reads(4, 7)]
    alone = [gpt2.solo(each) for each in programs]
    ended = gpt2.merged(*programs)
    assert all(map(fits, alone, ended))
    assert [each.shared for each in ended] == [1, 0, 1, 0]


def test_no_more_rows_and_tokens_than_allowed(gpt2: Site) -> None:
    programs = [reads(start) for start in range(5)]
    for bounds in (type(BOUNDS)(2, 4096, TOLERANCE, 1), type(BOUNDS)(32, 10, TOLERANCE, 1)):
        ended = gpt2.merged(*programs, bounds=bounds)
        assert [each.shared for each in ended] == [1, 1, 1, 1, 0]
        assert all(fits(gpt2.solo(each), end) for each, end in zip(programs, ended, strict=True))


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_other_architectures(architecture: str, request: pytest.FixtureRequest) -> None:
    place: Site = request.getfixturevalue(architecture)

    def reader(start: int) -> Program:
        def program(model: Any, backend: Backend) -> None:
            with model.trace(prompt(start, 8), backend=backend):
                attention = model.model.layers[0].self_attn.output[0].save()
                hidden = model.model.layers[0].output.save()
                model.model.layers[1].output[:, 3] = 0
                logits = model.lm_head.output.save()

        return program

    all_fit(place, [reader(1), reader(11), reader(21)], TOLERANCE)


def test_of_a_router_each_gets_its_own_tokens(mixtral: Site) -> None:
    def reader(start: int) -> Program:
        def program(model: Any, backend: Backend) -> None:
            with model.trace(prompt(start), backend=backend):
                gate = model.model.layers[0].mlp.gate.output.save()
                experts = model.model.layers[0].mlp.experts.output.save()

        return program

    ended = all_fit(mixtral, [reader(1), reader(11), reader(21)], TOLERANCE)
    assert {len(each.saved["experts"]) for each in ended} == {5}
    assert not same(ended[0].saved, ended[1].saved, TOLERANCE)


def test_what_lies_in_the_order_of_experts_is_not_served(mixtral: Site) -> None:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(prompt(3), backend=backend):
            inner = model.model.layers[0].mlp.experts.act_fn.output.save()

    ended = mixtral.merged(program, program)
    assert all("cannot be told apart" in each.misfit for each in ended)
