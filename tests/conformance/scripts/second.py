"""The other script: what stands on each line differs, the lines on which blocks begin do not."""

from parts import OTHER, PROMPT, parts


def experiment(model, remote):
    layers, _, head = parts(model)
    with model.trace(OTHER, remote=remote):
        layers[2].output[:, -1] = 1
        logits = head.output.save()
    with model.session(remote=remote):
        with model.trace(OTHER):
            hidden = layers[1].output
            loss = head.output[:, -1, 8].logsumexp(-1)
            with loss.backward():
                gradient = (hidden.grad * 3).save()
    with model.trace(OTHER, remote=remote):
        hidden = layers[1].output
        loss = head.output[:, 0, 9].sum()
        with loss.backward():
            late = (hidden.grad - 1).save()
            unused = 0
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits, "gradient": gradient, "late": late}
