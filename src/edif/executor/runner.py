"""The runner: takes one job after another from its pipe and runs them on the shared model.

:func:`serve` is the *shared* executor. The *sealed* one, :func:`serve_one`, is the same code in a process that
serves one job and was closed in by the kernel before it read it.
"""

import os
import re
import socket
import time
from typing import Any

import torch

from edif.core.errors import OUT_OF_MEMORY, EdifError, JobFailed
from edif.executor import saving
from edif.executor.huge_pages import take_heap
from edif.executor.job import LoadedModel, run_job
from edif.executor.keeping import Keeping, Opened
from edif.executor.output import OutputRelay
from edif.executor.reset import ProcessState
from edif.executor.warm_up import rehearse
from edif.executor.weights import WeightGuard
from edif.walls import memory
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
    heap_bytes: int,
) -> None:
    """Serve one job. Called in a fresh fork of the zygote that has been closed in; it rehearses before it is ready.

    Args:
        heap_bytes: free memory that it takes before; the larger the model, the more a pass needs.
    """
    loaded = LoadedModel(model, adapters)
    rehearse(
        loaded, rehearsal
    )  # with the one thread that there is: jobs that run have the better claim to the others
    take_heap(heap_bytes)
    torch.set_num_threads(threads)
    _take_one(sock, loaded, memory_limit_bytes)
    sock.recv(1)  # what the job used is read off this process before it is killed


def _take_one(sock: socket.socket, loaded: LoadedModel, memory_limit_bytes: int | None = None) -> None:
    pipe.send(sock, pipe.Ready())
    message, fds = pipe.receive(sock, pipe.to_runner)
    try:
        if not isinstance(message, pipe.RunJob) or len(fds) != 2 + len(message.extras.uses):
            raise pipe.PipeError(
                "a job comes with two descriptors, and one for each that it uses kept values of"
            )
        _serve_one(sock, loaded, message, fds, memory_limit_bytes)
    finally:
        Keeping.forget()
        for fd in fds:
            os.close(fd)


def _serve_one(
    sock: socket.socket,
    loaded: LoadedModel,
    request: pipe.RunJob,
    fds: list[int],
    memory_limit_bytes: int | None,
) -> None:
    payload_fd, result_fd, *kept_fds = fds
    memory.reset_peak()
    relay = OutputRelay(lambda text: pipe.send(sock, pipe.Log(pipe.clip(text))), request.log_limit_bytes)
    try:
        payload = saving.read_payload(payload_fd, request.compress, request.expanded_limit_bytes)
        keeping = Keeping()
        with relay:
            opened = Opened(dict(zip(request.extras.uses, kept_fds, strict=True)))
            saved = run_job(loaded, payload, request.env, opened)
        began = time.monotonic()
        written = saving.write_result(
            saved,
            result_fd,
            request.compress,
            request.result_limit_bytes,
            request.extras,
            on_large=lambda: pipe.send(sock, pipe.Saving()),
            keeping=keeping,
            room_for_kept=lambda: _room(sock),
        )
        answer: pipe.Done | pipe.Failed = pipe.Done(
            time.monotonic() - began, loaded.tokens, written.packed, written.rounded
        )
    except EdifError as error:
        answer = _failed(error, loaded)
    except MemoryError as error:
        sentence = _out_of_memory(str(error.__cause__ or error), memory_limit_bytes)
        answer = _failed(JobFailed(OUT_OF_MEMORY, sentence), loaded)
    pipe.send(sock, answer)


def _room(sock: socket.socket) -> int:
    """A descriptor to which what is kept is written."""
    pipe.send(sock, pipe.Keep())
    message, fds = pipe.receive(sock, pipe.to_runner)
    if not isinstance(message, pipe.Room) or len(fds) != 1:
        raise pipe.PipeError("room for what is kept is one descriptor")
    return fds[0]


def _out_of_memory(words: str, limit_bytes: int | None) -> str:
    """
    Args:
        words: those of the library that asked for memory.
        limit_bytes: what a sealed job may have beyond the model's.
    """
    asked = re.search(r"allocate (\d+) bytes", words)
    wanted = "more" if asked is None else f"another {_gib(int(asked[1]))}"
    if limit_bytes is None:
        return f"The job ran out of memory: it asked for {wanted}, which the node did not have."
    reserved = memory.reserved_beyond(limit_bytes)
    used = "memory" if reserved is None else _gib(reserved)
    return f"The job had used {used} beyond the model's and asked for {wanted}; it may use {_gib(limit_bytes)} here."


def _gib(size: int) -> str:
    return f"{size / 2**30:,.4g} GiB"


def _failed(error: EdifError, loaded: LoadedModel) -> pipe.Failed:
    return pipe.Failed(
        code=error.code,
        sentence=pipe.clip(error.sentence),
        next_step=pipe.clip(error.next_step),
        tokens=loaded.tokens,
    )
