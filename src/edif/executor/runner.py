"""The runner: takes one job after another from its pipe and runs them on the shared model.

:func:`serve` is the *shared* executor. The *sealed* one, :func:`serve_one`, is the same code in a process that
serves one job and was closed in by the kernel before it read it.
"""

import os
import socket
import time
from typing import Any

import torch

from edif.core.errors import OUT_OF_MEMORY, EdifError, JobFailed
from edif.executor import saving
from edif.executor.job import LoadedModel, run_job
from edif.executor.output import OutputRelay
from edif.executor.reset import ProcessState
from edif.executor.warm_up import rehearse
from edif.executor.weights import WeightGuard
from edif.wire import pipe


def serve(
    sock: socket.socket, model: Any, weights: WeightGuard, adapters: dict[str, str], threads: int
) -> None:
    """Serve jobs until the pipe closes. Called in a fresh fork of the zygote."""
    torch.set_num_threads(threads)
    loaded = LoadedModel(model, adapters)
    state = ProcessState(loaded, weights)
    while True:
        _take_one(sock, loaded)
        left_behind = state.restore()
        if left_behind:
            pipe.send(sock, pipe.Tainted(pipe.clip(left_behind)))
            return


def serve_one(
    sock: socket.socket,
    model: Any,
    adapters: dict[str, str],
    threads: int,
    rehearsal: bytes,
    memory_limit_bytes: int,
) -> None:
    """Serve one job. Called in a fresh fork of the zygote that has been closed in; it rehearses before it is ready."""
    loaded = LoadedModel(model, adapters)
    rehearse(
        loaded, rehearsal
    )  # with the one thread that there is: jobs that run have the better claim to the others
    torch.set_num_threads(threads)
    _take_one(sock, loaded, memory_limit_bytes)


def _take_one(sock: socket.socket, loaded: LoadedModel, memory_limit_bytes: int | None = None) -> None:
    pipe.send(sock, pipe.Ready())
    message, fds = pipe.receive(sock, pipe.to_runner)
    if len(fds) != 2:
        raise pipe.PipeError("a job comes with two descriptors")
    payload_fd, result_fd = fds
    try:
        _serve_one(sock, loaded, message, payload_fd, result_fd, memory_limit_bytes)
    finally:
        os.close(payload_fd)
        os.close(result_fd)


def _serve_one(
    sock: socket.socket,
    loaded: LoadedModel,
    request: pipe.RunJob,
    payload_fd: int,
    result_fd: int,
    memory_limit_bytes: int | None,
) -> None:
    began = time.monotonic()
    relay = OutputRelay(lambda text: pipe.send(sock, pipe.Log(pipe.clip(text))), request.log_limit_bytes)
    try:
        payload = saving.read_payload(payload_fd, request.compress, request.expanded_limit_bytes)
        with relay:
            saved = run_job(loaded, payload, request.env)
        run_s = time.monotonic() - began
        saving.write_result(
            saved,
            result_fd,
            request.compress,
            request.result_limit_bytes,
            on_large=lambda: pipe.send(sock, pipe.Saving()),
        )
        answer: pipe.Done | pipe.Failed = pipe.Done(
            run_s=run_s,
            save_s=time.monotonic() - began - run_s,
            tokens=loaded.tokens,
            peak_memory_bytes=saving.peak_memory_bytes(),
        )
    except EdifError as error:
        answer = _failed(error, began, loaded)
    except MemoryError:
        answer = _failed(JobFailed(OUT_OF_MEMORY, _out_of_memory(memory_limit_bytes)), began, loaded)
    pipe.send(sock, answer)


def _out_of_memory(limit_bytes: int | None) -> str:
    if limit_bytes is None:
        return "The job ran out of memory."
    return f"The job needed more than the {limit_bytes / 2**30:.2g} GiB beyond the model's that a job may use here."


def _failed(error: EdifError, began: float, loaded: LoadedModel) -> pipe.Failed:
    return pipe.Failed(
        code=error.code,
        sentence=pipe.clip(error.sentence),
        next_step=pipe.clip(error.next_step),
        run_s=time.monotonic() - began,
        tokens=loaded.tokens,
        peak_memory_bytes=saving.peak_memory_bytes(),
    )
