"""The kinds of programs that need a forward pass of their own."""

from tests.support.programs.draft import Draft
from tests.support.programs.places import attention, backbone
from tests.support.programs.reads import last


def gradient(draft: Draft) -> None:
    """Gradients of a loss, read, and some of them written."""
    path = backbone(draft.family)[0]
    early, late = sorted(draft.chance.sample(range(3), 2))
    draft.write(0, f"with model.trace({draft.given(draft.batch(draft.length()))}, backend=backend):")
    draft.write(
        1,
        f"early = model.{path}[{early}].output",
        f"late = model.{path}[{late}].output",
        f"logits = model.lm_head.output[:, -1, {draft.chance.randrange(32)}]",
        "loss = logits.sum()",
        "with loss.backward():",
    )
    if draft.chance.random() < 0.5:
        draft.write(2, "late.grad = late.grad * 0.5")
    draft.write(2, "late_grad = late.grad.save()", "early_grad = early.grad.save()")
    draft.write(1, "value = loss.item().save()")


def sourced(draft: Draft) -> None:
    """One operation inside an attention, read and edited."""
    layer = draft.chance.randrange(3)
    module = f"model.{backbone(draft.family)[0]}[{layer}].{attention(draft.family)[0]}"
    body = draft.body(4)
    last(body)
    draft.write(0, f"with model.trace({draft.given(draft.batch(draft.length()))}, backend=backend):")
    draft.write(
        1,
        f"{body.seen} = nnsight.save([])",
        f"operation = {module}.source.attention_interface_1",
        "mixed = operation.output[0].clone().save()",
    )
    if draft.chance.random() < 0.6:
        draft.write(1, "operation.output = (operation.output[0] * 3, None)")
    draft.write(1, *body.text())


def skipped(draft: Draft) -> None:
    """A block, or its feed-forward part, that is not computed."""
    layer = draft.chance.randrange(3)
    module = f"model.{backbone(draft.family)[0]}[{layer}]" + draft.chance.choice(["", ".mlp"])
    body = draft.body(4)
    last(body)
    draft.write(0, f"with model.trace({draft.given(draft.batch(draft.length()))}, backend=backend):")
    draft.write(1, f"{body.seen} = nnsight.save([])", f"{module}.skip({module}.input * 0.5)", *body.text())


def weights_edited(draft: Draft) -> None:
    """Weights that are changed for this job: within a trace, or between two of a session."""
    path = f"model.{backbone(draft.family)[0]}[{draft.chance.randrange(3)}]"
    norm = "ln_1" if draft.family == "gpt2" else "input_layernorm"
    edit = draft.chance.choice(
        [
            f"{path}.{norm}._module.weight.data.mul_(2.0)",
            f"{path}.{norm}._module.weight.data[:8] = 0.0",
            "model.lm_head._module.weight.data.mul_(0.5)",
        ]
    )
    length = draft.length()
    if draft.chance.random() < 0.5:
        body = draft.body(length)
        last(body)
        draft.write(0, f"with model.trace({draft.given(draft.batch(length))}, backend=backend):")
        draft.write(1, f"{body.seen} = nnsight.save([])", edit, *body.text())
        return
    draft.write(0, "with model.session(backend=backend):")
    for number in range(2):
        body = draft.body(length)
        last(body)
        if number == 1:
            draft.write(1, edit)
        draft.write(1, f"{body.seen} = nnsight.save([])")
        draft.write(1, f"with model.trace({draft.given(draft.batch(length))}):")
        draft.write(2, *body.text())
