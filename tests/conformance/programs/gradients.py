"""Gradients, read and written inside one trace, and of the weights themselves."""

import nnsight
import torch

from parts import OTHER, PROMPT, parts

READS = {"read_gradients"}


def read_gradients(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        early = layers[0].output
        late = layers[2].output

        # The loss: how much likelier one word is than another.
        logits = head.output[:, -1]
        loss = (logits[:, 4] - logits[:, 7]).sum()
        with loss.backward():
            late_gradient = late.grad.save()
            early_gradient = early.grad.save()
        value = loss.item().save()
    return {"late": late_gradient, "early": early_gradient, "loss": value}


def write_gradients(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        early = layers[0].output
        late = layers[2].output
        loss = head.output[:, -1].logsumexp(-1).sum()
        with loss.backward():
            late.grad = late.grad * 0.5
            gradient = early.grad.save()
    with model.trace(PROMPT, remote=remote):
        early = layers[0].output
        late = layers[2].output
        loss = head.output[:, -1].logsumexp(-1).sum()
        with loss.backward():
            plain_gradient = early.grad.save()
    return {"gradient": gradient, "plain_gradient": plain_gradient}


def gradient_steers_a_second_pass(model, remote):
    layers, _, head = parts(model)
    with model.session(remote=remote):
        with model.trace(PROMPT):
            hidden = layers[1].output
            loss = head.output[:, -1, 5].sum()
            with loss.backward():
                gradient = hidden.grad
        with model.trace(PROMPT):
            layers[1].output = layers[1].output + 10 * gradient
            logits = head.output.save()
        with model.trace(PROMPT):
            plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}


def two_backward_passes(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        hidden = layers[1].output
        logits = head.output[:, -1]
        with logits[:, 3].sum().backward(retain_graph=True):
            gradient = hidden.grad.save()
        with logits[:, 9].sum().backward():
            plain_gradient = hidden.grad.save()
    return {"gradient": gradient, "plain_gradient": plain_gradient}


def gradients_of_invokes(model, remote):
    layers, _, head = parts(model)
    with model.trace(remote=remote) as tracer:
        with tracer.invoke(PROMPT):
            first = layers[1].output
            loss = head.output[:, -1, 5].sum()
            with loss.backward(retain_graph=True):
                gradient = first.grad.save()
        with tracer.invoke(OTHER):
            second = layers[1].output
            loss = head.output[:, -1, 5].sum()
            with loss.backward():
                plain_gradient = second.grad.save()
    return {"gradient": gradient, "plain_gradient": plain_gradient}


def gradients_of_weights(model, remote):
    layers, _, head = parts(model)
    gradients = []
    for prompt in (PROMPT, PROMPT, OTHER):
        if not remote:
            model._module.zero_grad()  # on the fabric no job starts with another one's gradients
        with model.trace(prompt, remote=remote):
            loss = head.output[:, -1].logsumexp(-1).sum()
            loss.backward()
            gradient = nnsight.save(head.weight.grad.clone())
        gradients.append(gradient)
    return {"gradient": gradients[0], "same_gradient": gradients[1], "plain_gradient": gradients[2]}


def without_gradient_tracking(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        torch.set_grad_enabled(False)
        tracked = nnsight.save([layers[1].output.requires_grad])
    if not remote:
        torch.set_grad_enabled(True)
    # What one job switched off is on again for the next.
    with model.trace(PROMPT, remote=remote):
        plain_tracked = nnsight.save([layers[1].output.requires_grad])
    return {"tracked": tracked, "plain_tracked": plain_tracked}
