"""Jobs of our own, run over and over before the zygote forks for those of others.

CPython rewrites code for the types that it meets there, and fills caches of attributes, in the first dozen runs of each function. A fork
that finds that done is spared the slow first runs and the copies of the pages that they write to. So the zygote runs whole jobs, from
their message to their result, with the code that forks run them with; those in company with a driver of their own.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import zstandard

from edif.core.job import Extras
from edif.core.limits import MIB
from edif.executor import runner
from edif.executor.job import LoadedModel
from edif.executor.merging import driver, traces
from edif.executor.merging.layout import Layout
from edif.executor.merging.sealed import SealedCompany
from edif.executor.reset import forget_nnsight
from edif.executor.untouched import Untouched
from edif.wire import pipe
from edif.wire.link import Merging

if TYPE_CHECKING:
    from edif.executor.warm_up import Rehearsals

_TIMES = 30
_LONGEST_S = 1.0
"""Of one kind of job; then it is enough, which is so for larger models."""
_SILENCE_S = 5.0
"""A driver that says nothing for so long is given up."""


class Stage(NamedTuple):
    """What jobs in company need.

    Attributes:
        layout: the model's.
        merging: the bounds of shared passes.
        untouched: notices what a job has changed.
        settle: what a fork does first.
    """

    layout: Layout
    merging: Merging
    untouched: Untouched
    settle: Callable[[], None]


def rehearse_jobs(loaded: LoadedModel, rehearsals: "Rehearsals", stage: Stage | None) -> None:
    """Run them. Takes up to three seconds; a model for which there are no rehearsals goes without."""
    if not rehearsals.start:
        return
    with suppress(Exception):
        _again_and_again(partial(_run, loaded, rehearsals.start, None), rehearsals.start)
        if stage is not None:
            with _a_driver(loaded, stage) as seats:
                for payload in (rehearsals.edit, rehearsals.start):
                    _again_and_again(partial(_in_company, loaded, payload, stage, seats), payload)


def _again_and_again(run: Callable[[], None], payload: bytes) -> None:
    began = time.monotonic()
    for _ in range(_TIMES if payload else 0):
        if time.monotonic() - began > _LONGEST_S:
            return
        run()


def _in_company(loaded: LoadedModel, payload: bytes, stage: Stage, seats: socket.socket) -> None:
    ours, theirs = pipe.pair()
    with ours:
        with theirs:
            pipe.send(seats, pipe.Admit(0), (theirs.fileno(),))
        ours.settimeout(_SILENCE_S)
        _run(loaded, payload, SealedCompany(ours, loaded.module, stage.layout, stage.untouched))
    with suppress(BlockingIOError):
        while pipe.receive(seats, pipe.from_driver):  # that it is ready, and which passes it ran
            pass


def _run(loaded: LoadedModel, payload: bytes, company: SealedCompany | None) -> None:
    ours, theirs = pipe.pair()
    request = pipe.RunJob(
        env=loaded.plain_env,
        compress=True,
        extras=Extras(),
        result_limit_bytes=64 * MIB,
        expanded_limit_bytes=64 * MIB,
        log_limit_bytes=MIB,
        merge=company is not None,
    )
    with ours, theirs, _memory(zstandard.compress(payload)) as given, _memory(b"") as result:
        pipe.send(ours, request, (given, result))
        ours.shutdown(socket.SHUT_WR)  # and then there is nothing more to come
        try:
            runner.serve_one(theirs, loaded, 1, MIB, company)
        finally:
            traces.enter(None)
            forget_nnsight()


@contextmanager
def _memory(content: bytes) -> Iterator[int]:
    fd = os.memfd_create("edif-rehearsal")
    try:
        os.pwrite(fd, content, 0)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _a_driver(loaded: LoadedModel, stage: Stage) -> Iterator[socket.socket]:
    """The socket of a driver that serves every job at once."""
    ours, theirs = pipe.pair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            try:
                stage.settle()
                ours.close()
                merging = msgspec.structs.replace(stage.merging, always=True, wait_s=0.0)
                driver.serve(theirs, loaded.model, stage.layout, merging, 1)
            finally:
                os._exit(0)
        try:
            theirs.close()
            ours.setblocking(False)
            yield ours
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
