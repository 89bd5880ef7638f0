"""Attention probabilities: they exist only with the eager implementation, which travels with the request."""

import nnsight
import torch

from parts import PROMPT, attention_of, parts


def attention_probabilities(eager, model, remote):
    layers, _, head = parts(eager)
    with eager.trace(PROMPT, remote=remote):
        probabilities = nnsight.save([attention_of(layers[0]).output[1]])
        logits = head.output.save()

    # The next request, of someone else, runs on the same weights with the default again.
    default_layers, _, default_head = parts(model)
    with model.trace(PROMPT, remote=remote):
        plain_probabilities = nnsight.save([attention_of(default_layers[0]).output[1]])
        default_logits = default_head.output.save()
    return {
        "probabilities": probabilities,
        "plain_probabilities": plain_probabilities,
        "default": plain_probabilities,
        "same_default": [None],
        "sums": probabilities[0].sum(-1).round(decimals=4),
        "same_sums": torch.ones(1, 4, 7),
        "logits": logits,
        "default_logits": default_logits,
    }


def edit_attention_probabilities(eager, remote):
    layers, _, head = parts(eager)
    with eager.trace(PROMPT, remote=remote):
        softmax = attention_of(layers[1]).source.attention_interface_1.source.nn_functional_softmax_0
        weights = softmax.output
        softmax.output = weights.roll(1, dims=1)  # every head gets its neighbour's pattern
        logits = head.output.save()
    with eager.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}
