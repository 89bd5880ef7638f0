"""Code of the user's own files, shipped by value."""

import runpy
import sys
from pathlib import Path

import torch

import probing
from parts import OTHER, PROMPT, parts
from probing import SparseCoder, Steering, flipped


def function_of_a_local_module(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        layers[1].output = flipped(layers[1].output)
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        layers[1].output = probing.flipped(layers[1].output)
        same_logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "same_logits": same_logits, "plain_logits": plain_logits}


def class_of_a_local_module(model, remote):
    layers, _, head = parts(model)
    steering = Steering(4.0)
    with model.trace(PROMPT, remote=remote):
        layers[1].output = steering.apply(layers[1].output)
        layers[2].output = Steering(strength=-2.0).apply(layers[2].output)
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}


def module_with_weights(model, remote):
    layers, _, head = parts(model)
    coder = SparseCoder(32, 64)
    with model.trace(PROMPT, remote=remote):
        codes = torch.relu(coder.encoder(layers[1].output)).save()
        layers[1].output = coder(layers[1].output)
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"codes": codes.detach(), "logits": logits, "plain_logits": plain_logits}


def functions_inside_the_block(model, remote):
    layers, _, head = parts(model)
    factor = -2.0

    def scaled(tensor):
        return tensor * factor

    twice = lambda tensor: scaled(scaled(tensor))  # noqa: E731 - lambdas travel as well
    with model.trace(PROMPT, remote=remote):

        def shifted(tensor):
            return twice(tensor) + 1

        layers[0].output = shifted(layers[0].output)
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}


def top_level_of_a_script(model, remote):
    """Traces outside of all functions, and functions of ``__main__``."""
    sys.argv[1:] = [model.repo_id, "remote" if remote else "local"]
    names = runpy.run_path(str(Path("script.py").absolute()), run_name="__main__")
    return {name: names[name] for name in ("logits", "plain_logits", "lasts")}


def module_attached_in_the_block(model, remote):
    """A module of one's own as a part of the model, for one job."""
    layers, _, head = parts(model)
    coder = SparseCoder(32, 64)
    with model.session(remote=remote):
        layers[1].coder = coder
        with model.edit() as (tracer, edited):
            layers[1].output = layers[1].coder(layers[1].output, hook=True)
        with edited.trace(PROMPT):
            codes = layers[1].coder.encoder.output.detach().save()
            logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"codes": codes, "logits": logits, "plain_logits": plain_logits}


def trace_opened_by_a_helper(model, remote):
    layers, _, head = parts(model)
    logits = probing.zero_in_a_trace(model, layers[1], PROMPT, head, remote)
    with model.session(remote=remote):
        in_session = probing.zero_in_a_trace(model, layers[1], PROMPT, head, False).save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    with model.trace(OTHER, remote=remote):
        plain_in_session = head.output.save()
    return {
        "logits": logits,
        "plain_logits": plain_logits,
        "in_session": in_session,
        "plain_in_session": plain_in_session,
        "same_in_session": logits,
    }
