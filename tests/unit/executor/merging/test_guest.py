"""What a job does with the values of a shared pass: as in a pass of its own, or a misfit, and never something in between."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnsight.tracing.backend import Backend

from tests.unit.executor.merging.jobs import Program, Site, fits
from tests.unit.executor.merging.tiny import prompt

# ruff: noqa: F841 - what a block saves is sent back by its name
EDITED, OTHER = prompt(3), prompt(20)


def beside(model: Any, backend: Backend) -> None:
    """The job that shares the pass."""
    with model.trace(OTHER, backend=backend):
        hidden = model.transformer.h[1].output.save()
        logits = model.lm_head.output.save()


def edits(act: Callable[[Any], object]) -> Program:
    """A job that does something with the output of the first block, and reads what comes of it."""

    def program(model: Any, backend: Backend) -> None:
        with model.trace(EDITED, backend=backend):
            act(model)
            logits = model.lm_head.output.save()

    return program


def in_place(model: Any) -> None:
    model.transformer.h[0].output[:, 1] = 0


def in_place_by_method(model: Any) -> None:
    model.transformer.h[0].output.mul_(2)


def through_data(model: Any) -> None:
    model.transformer.h[0].output.data[:, 1] = 5


def through_numpy(model: Any) -> None:
    model.transformer.h[0].output.detach().numpy()[:, 1] = 5


def replaces(model: Any) -> None:
    model.transformer.h[0].output = model.transformer.h[0].output * 2


def replaces_with_a_constant(model: Any) -> None:
    model.transformer.h[0].output = torch.ones(1, 5, 64)


def replaces_and_writes(model: Any) -> None:
    hidden = model.transformer.h[0].output
    hidden[:, 0] = 1
    model.transformer.h[0].output = hidden + 1


def swaps_with_transposed(model: Any) -> None:
    model.transformer.h[0].output = torch.arange(320.0).view(1, 64, 5).transpose(1, 2) / 100


def edits_an_input(model: Any) -> None:
    model.transformer.h[1].mlp.input[:, 2:] = 0


def replaces_an_input(model: Any) -> None:
    model.transformer.h[1].mlp.input = model.transformer.h[1].mlp.input * 3


def edits_attention(model: Any) -> None:
    output = model.transformer.h[1].attn.output
    model.transformer.h[1].attn.output = (output[0] * 2, *output[1:])


def edits_twice(model: Any) -> None:
    model.transformer.h[0].output[:] = 1
    model.transformer.h[2].output[:, 0] += 1


def writes_the_same_bits(model: Any) -> None:
    model.transformer.h[0].output[:] = model.transformer.h[0].output.clone()


def ablates_by_steps(model: Any) -> None:
    for block in model.transformer.h:
        block.mlp.output[:] = 0


def gives_what_is_not_a_number(model: Any) -> None:
    model.transformer.h[0].output[:] = float("nan")


FITTING = [
    in_place,
    in_place_by_method,
    through_data,
    through_numpy,
    replaces,
    replaces_with_a_constant,
    replaces_and_writes,
    swaps_with_transposed,
    edits_an_input,
    replaces_an_input,
    edits_attention,
    edits_twice,
    writes_the_same_bits,
    ablates_by_steps,
]


@pytest.mark.parametrize("act", FITTING, ids=lambda act: act.__name__)
def test_an_edit_has_its_effect_on_the_own_rows_alone(act: Callable[[Any], object], gpt2: Site) -> None:
    job = edits(act)
    alone, alone_beside = gpt2.solo(job), gpt2.solo(beside)
    for order in ((job, beside), (beside, job)):
        ended = dict(zip(order, gpt2.merged(*order), strict=True))
        assert fits(alone, ended[job]), ended[job]
        assert fits(alone_beside, ended[beside]), ended[beside]
        assert ended[job].shared == ended[beside].shared == 1


def test_a_job_that_gives_nan_harms_nobody(gpt2: Site) -> None:
    ended, other = gpt2.merged(edits(gives_what_is_not_a_number), beside)
    assert bool(ended.saved["logits"].isnan().all())
    assert fits(gpt2.solo(beside), other)


# -- what does not fit -------------------------------------------------------------------------------------
def another_shape(model: Any) -> None:
    model.transformer.h[0].output = torch.ones(1, 4, 64)


def more_rows(model: Any) -> None:
    model.transformer.h[0].output = torch.ones(2, 5, 64)


def another_dtype(model: Any) -> None:
    model.transformer.h[0].output = torch.ones(1, 5, 64, dtype=torch.float64)


def another_form(model: Any) -> None:
    model.transformer.h[0].output = (model.transformer.h[0].output,)


def writes_later(model: Any) -> None:
    early = model.transformer.h[0].output
    model.transformer.h[1].output.save()
    early[:] = 0
    model.transformer.h[2].output.save()


def writes_later_through_a_view(model: Any) -> None:
    early = model.transformer.h[0].output[0, 1:]
    model.transformer.h[1].output.save()
    early.zero_()
    model.transformer.h[2].output.save()


def writes_to_what_all_share(model: Any) -> None:
    model.transformer.wpe.output[:] = 0


def uses_the_cache(model: Any) -> None:
    len(model.transformer.h[1].inputs[0][1])


def asks_for_the_cache_softly(model: Any) -> None:
    hasattr(model.transformer.h[1].inputs[0][1], "layers")


MISFITS = {
    another_shape: "another shape or dtype",
    more_rows: "another shape or dtype",
    another_dtype: "another shape or dtype",
    another_form: "another form",
    writes_later: "after the pass has gone on",
    writes_later_through_a_view: "after the pass has gone on",
    writes_to_what_all_share: "a value that all rows share",
}


@pytest.mark.parametrize(("act", "reason"), MISFITS.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_what_cannot_be_carried_over_is_a_misfit(
    act: Callable[[Any], object], reason: str, gpt2: Site
) -> None:
    ended, other = gpt2.merged(edits(act), beside)
    assert reason in ended.misfit
    assert ended.saved == {}
    assert fits(gpt2.solo(beside), other)
    assert other.shared == 1


def inside(act: Callable[[Any], object]) -> Program:
    """A job that does something in the middle of the model."""

    def program(model: Any, backend: Backend) -> None:
        with model.trace(EDITED, backend=backend):
            act(model)

    return program


@pytest.mark.parametrize("act", [uses_the_cache, asks_for_the_cache_softly], ids=lambda act: act.__name__)
def test_an_object_of_the_pass_is_not_to_be_had(act: Callable[[Any], object], gpt2: Site) -> None:
    ended, other = gpt2.merged(inside(act), beside)
    assert ended.misfit == "it uses an object that only its own forward pass has"
    assert fits(gpt2.solo(beside), other)


def test_it_is_not_saved_either(gpt2: Site) -> None:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(EDITED, backend=backend):
            given = model.transformer.h[1].inputs.save()

    import io

    ended, _ = gpt2.merged(program, beside)
    from edif.executor.merging.misfit import Misfit

    with pytest.raises(Misfit):
        torch.save(ended.saved, io.BytesIO())


# -- gradients ---------------------------------------------------------------------------------------------
def test_values_look_as_if_they_had_a_history(gpt2: Site) -> None:
    def program(model: Any, backend: Backend) -> None:
        with model.trace(EDITED, backend=backend):
            ids = model.transformer.wte.input
            hidden = model.transformer.h[0].output
            flags = [
                ids.requires_grad,
                hidden.requires_grad,
                (hidden * 2).requires_grad,
                hidden.is_leaf,
            ].save()
            logits = model.lm_head.output.save()
            flags.append(logits.requires_grad)

    def without(model: Any, backend: Backend) -> None:
        with model.trace(EDITED, backend=backend), torch.no_grad():
            hidden = model.transformer.h[0].output
            flags = [hidden.requires_grad, (hidden * 2).requires_grad].save()

    for job in (program, without):
        ended, _ = gpt2.merged(job, beside)
        assert ended.misfit == ""
        assert ended.shared == 1
        assert fits(gpt2.solo(job), ended)


def test_a_gradient_through_the_model_is_a_misfit(gpt2: Site) -> None:
    import operator

    pull = operator.methodcaller("back" + "ward")  # so that the name is not seen in the block

    def program(model: Any, backend: Backend) -> None:
        with model.trace(EDITED, backend=backend):
            loss = model.lm_head.output.sum()
            pull(loss)

    ended, other = gpt2.merged(program, beside)
    assert ended.misfit == "it asks for a gradient through the model"
    assert fits(gpt2.solo(beside), other)


def test_gradients_of_own_parameters_are_no_business_of_the_pass(gpt2: Site) -> None:
    """Of a probe on detached activations."""
    import operator

    pull = operator.methodcaller("back" + "ward")

    def program(model: Any, backend: Backend) -> None:
        with model.trace(EDITED, backend=backend):
            probe = torch.ones(64, **{"requires_" + "grad": True})
            loss = (model.transformer.h[0].output.detach() @ probe).sum()
            pull(loss)
            gradient = probe.__getattribute__("gr" + "ad").save()

    ended, _ = gpt2.merged(program, beside)
    assert ended.shared == 1
    assert fits(gpt2.solo(program), ended)
