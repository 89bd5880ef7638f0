"""What a job tells its user: prints, warnings, errors, costs."""

import asyncio
import contextlib
import io
import time
import warnings

import nnsight
import torch
from nnsight.intervention.backends.remote import AsyncRemoteBackend, RemoteError

from parts import OTHER, PROMPT, parts
from probing import refuse

READS = {"warns", "errors_in_every_way_of_waiting", "unreadable_block", "unsendable_result", "meta"}
ONLY = "gpt2"


def prints(model, remote):
    layers, _, head = parts(model)
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard):
        with model.trace(PROMPT, remote=remote):
            print("width", layers[1].output.shape[-1])
            print("first", "second", sep="\n")
            print("no newline", end="")
            logits = head.output.save()
    with model.trace(OTHER, remote=remote):
        plain_logits = head.output.save()
    text = heard.getvalue()
    lines = ["width 32", "first", "second", "no newline"]
    return {
        "logits": logits,
        "plain_logits": plain_logits,
        "heard": [line in text for line in lines],
        "same_heard": [True] * 4,
        "order": sorted(lines, key=text.index),
        "same_order": lines,
        **({"fact_text": text} if remote else {}),
    }


def warns(model, remote):
    """Each job gets its warnings, also one that an earlier job has already got."""
    layers, _, head = parts(model)
    answer = {}
    for number in (1, 2):
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard):
            with model.generate(PROMPT, max_new_tokens=2, min_new_tokens=2, remote=remote) as tracer:
                warnings.warn("this prompt is short", stacklevel=1)
                states = nnsight.save([])
                for _ in tracer.iter[:]:
                    states.append(layers[1].output[:, -1])
        answer[f"states_{number}"] = states
        if remote:
            answer[f"fact_text_{number}"] = heard.getvalue()
    return answer


def _failure(run):
    """What the user sees of a failure: the exception's text and the job's cost."""
    try:
        run()
    except RemoteError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "it did not fail"


def own_lines_in_errors(model, remote):
    layers, _, head = parts(model)

    def raising():
        with model.trace(PROMPT, remote=remote):
            hidden = layers[1].output
            wrong = hidden @ torch.ones(3, 3)  # the line to be shown
            logits = head.output.save()

    def raising_in_a_helper():
        with model.trace(PROMPT, remote=remote):
            refuse(layers[1].output.shape[-1])
            logits = head.output.save()

    def raising_from_another_error():
        with model.trace(PROMPT, remote=remote):
            hidden = layers[1].output
            try:
                {}["direction"]
            except KeyError as missing:
                raise TypeError("no direction was given") from missing

    def raising_after_the_trace():
        with model.session(remote=remote):
            with model.trace(PROMPT):
                hidden = layers[1].output
            raise KeyError("nothing under this name")

    def raising_in_backward():
        with model.trace(PROMPT, remote=remote):
            hidden = layers[1].output
            with head.output.sum().backward():
                raise ArithmeticError("the gradient is not liked")

    def out_of_order():
        with model.trace(PROMPT, remote=remote):
            late = layers[2].output.save()
            early = layers[0].output.save()

    def in_one_invoke():
        with model.trace(remote=remote) as tracer:
            with tracer.invoke(PROMPT):
                fine = layers[1].output.save()
            with tracer.invoke(OTHER):
                raise RuntimeError("the second invoke is at fault")

    texts = {
        run.__name__: _failure(run)
        for run in (
            raising,
            raising_in_a_helper,
            raising_from_another_error,
            raising_after_the_trace,
            raising_in_backward,
            out_of_order,
            in_one_invoke,
        )
    }
    # The fabric is well after all of these.
    with model.trace(PROMPT, remote=remote):
        logits = head.output.save()
    with model.trace(OTHER, remote=remote):
        plain_logits = head.output.save()
    last_lines = {name: text.strip().splitlines()[-1] for name, text in texts.items()}
    return {
        "logits": logits,
        "plain_logits": plain_logits,
        "last_lines": {name: line for name, line in last_lines.items() if name != "out_of_order"},
        **({"fact_texts": texts} if remote else {}),
    }


def errors_in_every_way_of_waiting(model, remote):
    layers, _, head = parts(model)
    if not remote:
        return {}

    def polled():
        with model.trace(PROMPT, remote=True, blocking=False) as tracer:
            raise ValueError(layers[1].output.shape[-1])
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            tracer.backend.poll()
            time.sleep(0.02)

    async def awaited():
        backend = AsyncRemoteBackend(model.to_model_key(), env=model._remoteable_get_env())
        with model.trace(PROMPT, backend=backend):
            raise ValueError(layers[1].output.shape[-1])
        await backend

    async def iterated():
        backend = AsyncRemoteBackend(model.to_model_key(), env=model._remoteable_get_env())
        with model.trace(PROMPT, backend=backend):
            raise ValueError(layers[1].output.shape[-1])
        return [update async for update in backend]

    last = asyncio.run(iterated())[-1]
    return {
        "fact_polled": _failure(polled),
        "fact_awaited": _failure(lambda: asyncio.run(awaited())),
        "fact_iterated": last.description,
        "fact_status": last.status.value,
        "fact_meta": last.meta,
    }


def unreadable_block(model, remote):
    """A module that was attached to the client's model is not part of the served one."""
    layers, _, head = parts(model)
    if not remote:
        return {}
    from nnsight import TransformersModel

    own = TransformersModel(model.repo_id, task="text-generation")
    parts(own)[0][0].extra = torch.nn.Linear(32, 32)

    def run():
        with own.trace(PROMPT, remote=True):
            logits = parts(own)[0][0].extra(parts(own)[0][0].output).save()

    return {"fact_text": _failure(run)}


def unsendable_result(model, remote):
    layers, _, head = parts(model)
    if not remote:
        return {}

    def run():
        with model.trace(PROMPT, remote=True):
            hidden = layers[1].output.save()
            chosen = nnsight.save(iter(hidden))
            kept = nnsight.save(row for row in hidden)

    return {"fact_text": _failure(run)}


def meta(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote) as tracer:
        logits = head.output.save()
    answer = {"logits": logits}
    if remote:
        answer["fact_done"] = tracer.backend.meta
        with contextlib.suppress(RemoteError):
            with model.trace([PROMPT, OTHER], remote=True) as tracer:
                logits = head.output.save()
                raise ValueError("after the model has run")
        answer["fact_failed"] = tracer.backend.meta
        with model.session(remote=True) as tracer:
            with model.trace(PROMPT):
                first = head.output.save()
            with model.trace(PROMPT):
                second = head.output.save()
        answer["fact_session"] = tracer.backend.meta
    return answer
