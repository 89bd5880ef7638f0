"""The other ways to send a job and to wait for it. Each gives the bits of an ordinary trace."""

import asyncio
import time

import torch
from nnsight import CONFIG
from nnsight.intervention.backends.remote import AsyncRemoteBackend, RemoteBackend

from parts import PROMPT, parts

# How a job is sent and waited for has nothing to do with the model's family.
ONLY = "gpt2"
READS = {"large_results"}


def _ordinary(model, remote):
    """The edited and the plain logits, sent in the ordinary way."""
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        layers[1].output[:, -1] = 0
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"same_logits": logits, "plain_logits": plain_logits}


def _wait(backend):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        result = backend.poll()
        if result is not None:
            return result
        time.sleep(0.02)
    raise TimeoutError(f"the job {backend.job_id} did not end; its last status was {backend.status}")


def submit_and_poll(model, remote):
    layers, _, head = parts(model)
    if not remote:
        answer = _ordinary(model, remote)
        return {**answer, "logits": answer["same_logits"]}
    with model.trace(PROMPT, remote=True, blocking=False) as tracer:
        layers[1].output[:, -1] = 0
        logits = head.output.save()
    backend = tracer.backend
    submitted = backend.status.value
    result = _wait(backend)
    again = backend.poll()
    return {
        **_ordinary(model, remote),
        "logits": result["logits"],
        "fact_again_equal": torch.equal(again["logits"], result["logits"]),
        "fact_submitted": submitted,
        "fact_status": backend.status.value,
        "fact_names": sorted(result),
        "fact_meta": backend.meta,
    }


def recover_by_job_id(model, remote):
    layers, _, head = parts(model)
    if not remote:
        answer = _ordinary(model, remote)
        return {**answer, "logits": answer["same_logits"]}
    with model.trace(PROMPT, remote=True, blocking=False) as tracer:
        layers[1].output[:, -1] = 0
        logits = head.output.save()
    job_id = tracer.backend.job_id
    del tracer
    # Only the id is left, as after a crash of the notebook.
    recovered = RemoteBackend(model.to_model_key(), blocking=False, job_id=job_id)
    result = _wait(recovered)
    return {**_ordinary(model, remote), "logits": result["logits"], "fact_meta": recovered.meta}


def recover_a_blocking_job(model, remote):
    """A job that was waited for is kept as well: its id brings the result a second time."""
    layers, _, head = parts(model)
    if not remote:
        answer = _ordinary(model, remote)
        return {**answer, "logits": answer["same_logits"]}
    seen = []
    backend = RemoteBackend(model.to_model_key(), env=model._remoteable_get_env())
    backend.display.update = seen.append
    with model.trace(PROMPT, backend=backend):
        layers[1].output[:, -1] = 0
        logits = head.output.save()
    recovered = RemoteBackend(model.to_model_key(), blocking=False, job_id=seen[0].id)
    result = _wait(recovered)
    return {
        **_ordinary(model, remote),
        "logits": result["logits"],
        "fact_equal": torch.equal(logits, result["logits"]),
        "fact_meta_equal": recovered.meta == backend.meta,
    }


def await_the_backend(model, remote):
    layers, _, head = parts(model)
    if not remote:
        answer = _ordinary(model, remote)
        return {**answer, "logits": answer["same_logits"]}

    async def run():
        backends = [
            AsyncRemoteBackend(model.to_model_key(), env=model._remoteable_get_env()) for _ in range(2)
        ]
        for backend in backends:  # both are under way before the first is awaited
            with model.trace(PROMPT, backend=backend):
                layers[1].output[:, -1] = 0
                logits = head.output.save()
        return await backends[1], await backends[0], backends[0].meta

    first, second, meta = asyncio.run(run())
    return {
        **_ordinary(model, remote),
        "logits": first["logits"],
        "fact_equal": torch.equal(first["logits"], second["logits"]),
        "fact_meta": meta,
    }


def iterate_over_updates(model, remote):
    layers, _, head = parts(model)
    if not remote:
        answer = _ordinary(model, remote)
        return {**answer, "logits": answer["same_logits"]}

    async def run():
        backend = AsyncRemoteBackend(model.to_model_key(), env=model._remoteable_get_env())
        with model.trace(PROMPT, backend=backend):
            print("halfway")
            layers[1].output[:, -1] = 0
            logits = head.output.save()
        return [update async for update in backend], backend.meta

    updates, meta = asyncio.run(run())
    result = updates.pop()
    return {
        **_ordinary(model, remote),
        "logits": result["logits"],
        "fact_statuses": [update.status.value for update in updates],
        "fact_ids": len({update.id for update in updates}),
        "fact_logs": [update.description for update in updates if update.status.value == "LOG"],
        "fact_meta": meta,
    }


def compressed_and_not(model, remote):
    layers, _, head = parts(model)
    answers = {}
    for compress in (True, False):
        CONFIG.API.COMPRESS = compress
        try:
            answers[compress] = _ordinary(model, remote)
        finally:
            CONFIG.API.COMPRESS = True
    return {
        "logits": answers[True]["same_logits"],
        "same_logits": answers[False]["same_logits"],
        "plain_logits": answers[False]["plain_logits"],
    }


def _polled_noise(model):
    with model.trace(PROMPT, remote=True, blocking=False) as tracer:
        torch.manual_seed(3)
        noise = torch.randn(600_000).save()
    return _wait(tracer.backend)["noise"]


def large_results(model, remote):
    """Too large for the status socket: these come by a link."""
    _, _, head = parts(model)
    answers = {}
    for compress in (True, False):
        CONFIG.API.COMPRESS = compress
        try:
            with model.trace(PROMPT, remote=remote) as tracer:
                head.output.mean()
                torch.manual_seed(3)
                noise = torch.randn(600_000).save()
                counted = torch.arange(400_000).save()
            if remote:
                answers[f"fact_bytes_{compress}"] = tracer.backend.meta["result_bytes"]
                noise_again = _polled_noise(model)
            else:
                noise_again = noise
        finally:
            CONFIG.API.COMPRESS = True
        answers[f"noise_{compress}"] = noise
        answers[f"same_noise_{compress}"] = noise_again
        answers[f"counted_{compress}"] = counted
    return answers


def host_as_argument(model, remote):
    layers, _, head = parts(model)
    host = CONFIG.API.HOST if remote else False
    answer = _ordinary(model, remote)
    CONFIG.API.HOST = "http://127.0.0.1:9"
    try:
        with model.trace(PROMPT, remote=host):
            layers[1].output[:, -1] = 0
            logits = head.output.save()
    finally:
        CONFIG.API.HOST = host or CONFIG.API.HOST
    return {**answer, "logits": logits}


def other_wrappers(model, language, untold, remote):
    """The older class, and a model whose task the client infers, name the same deployment."""
    answers = {**_ordinary(model, remote)}
    answers["logits"] = _ordinary(language, remote)["same_logits"]
    answers["untold"] = _ordinary(untold, remote)["same_logits"]
    answers["same_untold"] = answers["logits"]
    return answers
