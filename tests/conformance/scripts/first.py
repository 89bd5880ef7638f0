"""One of two scripts that are run under one name, one after the other: same lines, other blocks."""

from parts import OTHER, PROMPT, parts


def experiment(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        layers[1].output[:, -1] = 0
        logits = head.output.save()
    with model.session(remote=remote):
        with model.trace(PROMPT):
            hidden = layers[0].output
            loss = head.output[:, -1, 3].sum()
            with loss.backward():
                gradient = hidden.grad.save()
    with model.trace(PROMPT, remote=remote):
        hidden = layers[2].output
        loss = head.output[:, -1, 4].sum()
        with loss.backward():
            hidden.grad = hidden.grad * 2
            late = hidden.grad.save()
    with model.trace(OTHER, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits, "gradient": gradient, "late": late}
