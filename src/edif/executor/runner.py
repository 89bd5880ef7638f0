"""The runner: takes jobs from its pipe and runs them on the shared model.

:func:`serve` is the *shared* executor: one job after another, or several that are there at the same time together. The
*sealed* one, :func:`serve_one`, is the same code in a process that serves one job and was closed in by the kernel before it read it.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import NamedTuple

import torch

from edif.core.errors import OUT_OF_MEMORY, EdifError, JobFailed
from edif.executor import saving
from edif.executor.huge_pages import take_heap
from edif.executor.job import LoadedModel, run_job
from edif.executor.keeping import Keeping, Opened
from edif.executor.merging.batches import Batches
from edif.executor.merging.hub import Hub
from edif.executor.merging.layout import Layout
from edif.executor.merging.misfit import Misfit
from edif.executor.merging.tenant import Tenant
from edif.executor.merging.traces import Company
from edif.executor.out_of_memory import out_of_memory
from edif.executor.output import OutputRelay
from edif.executor.reset import ProcessState
from edif.executor.untouched import Untouched
from edif.executor.warm_up import rehearse
from edif.executor.weights import Guard
from edif.walls import memory
from edif.wire import pipe
from edif.wire.link import Merging

_REHEARSES_AFTER_S = 0.3
"""A runner to which no job has come for so long stands by: there is time to rehearse. One that was forked for a job has it at once."""
_REHEARSE = 4
"""So many jobs are rehearsed together."""


def serve(
    sock: socket.socket,
    loaded: LoadedModel,
    weights: Guard,
    threads: int,
    merging: "Together | None",
    has_turn: Callable[[int, float], None],
    rehearsal: bytes,
) -> None:
    """Serve jobs until the pipe closes. Called in a fresh fork of the zygote.

    Args:
        merging: how traces of jobs that are there at the same time are merged; None: one job at a time.
        has_turn: told which job has the turn, and for how long, where there are several.
        rehearsal: a payload for :func:`~edif.executor.warm_up.rehearse`.
    """
    torch.set_num_threads(threads)
    state = ProcessState(loaded, weights)
    bounds = None if merging is None else merging.bounds
    batches = Batches(sock, bounds.rows, always=bounds.always) if bounds is not None else Batches(sock, 1)
    pipe.send(sock, pipe.Ready())
    hub = None
    if merging is not None:
        if not batches.somebody_comes(_REHEARSES_AFTER_S):
            _rehearse_together(loaded, merging, rehearsal)
            state.restore()
        hub = merging.hub(loaded, has_turn, batches.somebody_comes)
    while True:
        jobs: list[_Job] = []
        coming = _run_in(loaded, batches.next(), jobs, merging)
        if hub is not None:
            hub.run(coming)
        else:
            for run in coming:
                run(None)
        for job in jobs:
            job.sock.close()
        left_behind = state.restore()
        if left_behind:
            pipe.send(sock, pipe.Tainted(pipe.clip(left_behind)))
            return
        pipe.send(sock, pipe.Ready())


def _run_in(
    loaded: LoadedModel, socks: Iterator[socket.socket], jobs: "list[_Job]", merging: "Together | None"
) -> "Iterator[Callable[[Tenant | None], None]]":
    """What runs the jobs of these sockets, as they come. Noted in ``jobs``, for who closes them."""
    for sock in socks:
        jobs.append(_Job(sock))
        yield jobs[-1].run_in(loaded)
        if merging is not None and merging.untouched.changed_for_now():
            return  # whoever comes now finds the process put back


class Together(NamedTuple):
    """What it takes to merge the traces of jobs in one process."""

    bounds: Merging
    layout: Layout
    untouched: Untouched

    def hub(
        self,
        loaded: LoadedModel,
        has_turn: Callable[[int, float], None] = lambda *_: None,
        somebody_comes: Callable[[], bool] = lambda: False,
    ) -> Hub:
        return Hub(loaded, self.layout, self.bounds, self.untouched, has_turn, somebody_comes)


def _rehearse_together(loaded: LoadedModel, merging: Together, payload: bytes) -> None:
    """Go the way of jobs that share a pass, so that the first ones need not wait until the process owns the pages that they touch."""

    def run(tenant: Tenant) -> None:
        with suppress(EdifError, Misfit):
            rehearse(loaded, payload, tenant)

    merging.hub(loaded).run([run] * _REHEARSE)


class _Job:
    """One job of a shared runner, on its own socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def run_in(self, loaded: LoadedModel) -> Callable[[Tenant | None], None]:
        def run(tenant: Tenant | None) -> None:
            try:
                _take_one(self.sock, loaded, company=tenant)
            except pipe.PipeError:  # nobody waits for it any more: the others go on
                return

        return run


def prepare(loaded: LoadedModel, rehearsal: bytes, heap_bytes: int) -> None:
    """Do ahead what the job to come would have to wait for. With the one thread that there is: jobs that run have the better claim to the others.

    Args:
        rehearsal: a payload for :func:`~edif.executor.warm_up.rehearse`.
        heap_bytes: free memory to take; the larger the model, the more a pass needs.
    """
    rehearse(loaded, rehearsal)
    take_heap(heap_bytes)


def serve_one(
    sock: socket.socket,
    loaded: LoadedModel,
    threads: int,
    memory_limit_bytes: int,
    company: Company | None,
) -> None:
    """Serve one job. Called in a fresh fork of the zygote that has been closed in.

    Args:
        company: whom it may share passes with.
    """
    torch.set_num_threads(threads)
    pipe.send(sock, pipe.Ready())
    _take_one(sock, loaded, memory_limit_bytes, company)
    sock.recv(1)  # what the job used is read off this process before it is killed


def _take_one(
    sock: socket.socket,
    loaded: LoadedModel,
    memory_limit_bytes: int | None = None,
    company: Company | None = None,
) -> None:
    message, fds = pipe.receive(sock, pipe.to_runner)
    try:
        if not isinstance(message, pipe.RunJob) or len(fds) != 2 + len(message.extras.uses):
            raise pipe.PipeError(
                "a job comes with two descriptors, and one for each that it uses kept values of"
            )
        loaded.on_job()
        pipe.send(sock, pipe.Begun())
        if company is not None:
            # Passes are shared by those for whom the model is as it was loaded.
            company.is_there = message.merge
            company.shares = message.merge and message.env == loaded.plain_env
        _serve_one(sock, loaded, message, fds, memory_limit_bytes, company)
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
    company: Company | None,
) -> None:
    payload_fd, result_fd, *kept_fds = fds
    memory.reset_peak()
    relay = OutputRelay(lambda text: pipe.send(sock, pipe.Log(pipe.clip(text))), request.log_limit_bytes)
    try:
        with _unhurried(company):
            payload = saving.read_payload(payload_fd, request.compress, request.expanded_limit_bytes)
        keeping = Keeping()
        with relay:
            opened = Opened(dict(zip(request.extras.uses, kept_fds, strict=True)))
            saved = run_job(loaded, payload, request.env, opened, company)
        began = time.monotonic()
        with _unhurried(company):
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
        tokens = _tokens(loaded, company)
        answer: pipe.Done | pipe.Failed | pipe.RunAlone = pipe.Done(
            time.monotonic() - began, tokens, written.packed, written.rounded
        )
    except Misfit as misfit:
        answer = pipe.RunAlone(pipe.clip(str(misfit)))
    except EdifError as error:
        answer = _failed(error, _tokens(loaded, company))
    except MemoryError as error:
        sentence = out_of_memory(error, memory_limit_bytes)
        answer = _failed(JobFailed(OUT_OF_MEMORY, sentence), _tokens(loaded, company))
    for shared in () if company is None else company.passes:
        pipe.send(sock, shared)
    pipe.send(sock, answer)


def _unhurried(company: Company | None) -> AbstractContextManager[None]:
    return nullcontext() if company is None else company.unhurried()


def _tokens(loaded: LoadedModel, company: Company | None) -> int:
    """Input tokens of the job's passes, those that it shared included."""
    return loaded.tokens + (0 if company is None else company.tokens)


def _room(sock: socket.socket) -> int:
    """A descriptor to which what is kept is written."""
    pipe.send(sock, pipe.Keep())
    message, fds = pipe.receive(sock, pipe.to_runner)
    if not isinstance(message, pipe.Room) or len(fds) != 1:
        raise pipe.PipeError("room for what is kept is one descriptor")
    return fds[0]


def _failed(error: EdifError, tokens: int) -> pipe.Failed:
    return pipe.Failed(
        code=error.code,
        sentence=pipe.clip(error.sentence),
        next_step=pipe.clip(error.next_step),
        tokens=tokens,
    )
