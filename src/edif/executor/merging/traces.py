"""The forward pass of a job's trace: run by the job itself, or shared.

nnsight runs every trace by ``Envoy.interleave``. As soon as a job with company is entered, a twin stands in its place that does
the same, but first asks the company whether the pass may be shared.
"""

from contextlib import AbstractContextManager
from threading import get_ident
from typing import Any, Protocol

import torch
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.interleaver import EarlyStopException
from nnsight.util import apply

from edif.executor.merging.guest import Guest
from edif.executor.merging.layout import Layout
from edif.executor.merging.misfit import note_in
from edif.executor.merging.request import Request, request_of
from edif.executor.noted import under_a_mode
from edif.wire import pipe

_interleave = Envoy.interleave


class Company(Protocol):
    """Those with whom a job may share forward passes.

    Attributes:
        module: the served model's; a pass of another is nobody else's.
        layout: of its values.
        misfits: why the job has to be run again, if it has to.
        shared_passes: how many passes it has shared so far.
        tokens: input tokens of its rows in them.
        unshared: names that a block has in it which will need passes of its own; it is spared the try.
        passes: those that it shared, for whoever keeps account.
        is_there: whether anybody knows of this job; if not, it runs its passes as if it had no company.
        shares: whether it may share passes at all; if not, it runs them itself, in turn with others.
    """

    module: torch.nn.Module
    layout: Layout
    misfits: list[str]
    shared_passes: int
    tokens: int
    unshared: frozenset[str]
    passes: list[pipe.Shared]
    is_there: bool
    shares: bool

    def changed(self) -> str:
        """What the job has changed that a pass run elsewhere does not show; empty if nothing."""

    def changed_for_now(self) -> str:
        """What of that, but for the weights, is changed at this moment: the model would compute otherwise, and others' code too."""

    def disturbed(self) -> str:
        """What another job has changed that this one ran with; empty if nothing, or if nobody can."""

    def step_aside(self) -> None:
        """The job will not share passes: it lets those go first who may."""

    def join(self, request: Request, guest: Guest) -> bool:
        """Share the pass of this trace. Returns False if it is to be run by the job itself, now.

        Raises:
            Misfit: it cannot be brought to its end in a shared pass.
            EarlyStopException: the trace stopped.
            Exception: what the job's code raised.
        """

    def alone(self) -> AbstractContextManager[None]:
        """A context in which the job runs a pass itself. It may have to wait for its turn."""

    def unhurried(self) -> AbstractContextManager[None]:
        """A context in which the job may take longer than its code may, since it is not its own code that does."""


NEEDS_OWN_PASS = frozenset(
    {
        "backward",
        "grad",
        "autograd",
        "requires_grad_",
        "source",
        "skip",
        "register_forward_hook",
        "data",
        "load_state_dict",
    }
)
"""Names that a block rarely has in it unless it needs a pass of its own, or changes the model. What it changes is looked for after a
shared pass, and not before: to look costs more than a small trace."""

_company: Company | None = None
_thread = 0
"""Which runs the job: traces of threads that it has started are run as if it had no company."""


def enter(company: Company | None) -> None:
    """The job that this process goes on with has this company."""
    global _company, _thread
    if company is not None and Envoy.interleave is not _run_trace:
        Envoy.interleave = _run_trace  # without company traces run as nnsight runs them
    _company, _thread = company, get_ident()
    note_in([] if company is None else company.misfits)


def _run_trace(envoy: Any, fn: Any, *args: Any, batcher: Any = None, **kwargs: Any) -> Any:
    company = _company
    strange = company is None or envoy._module is not company.module  # noqa: SLF001 - nnsight's own name
    if company is None or strange or get_ident() != _thread:
        return _interleave(envoy, fn, *args, batcher=batcher, **kwargs)
    if batcher is None or under_a_mode():
        with company.alone():
            return _interleave(envoy, fn, *args, batcher=batcher, **kwargs)
    return _run(company, envoy, fn, batcher, args, kwargs)


def _run(company: Company, envoy: Any, fn: Any, batcher: Any, args: Any, kwargs: Any) -> Any:
    """What nnsight's own ``Envoy.interleave`` does, step by step, but for who runs the model."""
    interleaver = envoy.interleaver
    interleaver.batcher = batcher
    batcher.add(*args, **kwargs)
    args, kwargs = batcher.assemble(fn)
    if envoy.device is not None:
        args, kwargs = apply((args, kwargs), lambda tensor: tensor.to(envoy.device), torch.Tensor)
    interleaver.mediators = envoy._edits + interleaver.mediators  # noqa: SLF001
    result = None
    try:
        with interleaver:
            if not _share(company, envoy, fn, args, kwargs):
                with company.alone():
                    result = (getattr(envoy._module, fn) if isinstance(fn, str) else fn)(*args, **kwargs)  # noqa: SLF001
                    interleaver.handle("result", result)
        interleaver.check_dangling_mediators()
    except EarlyStopException:
        pass
    finally:
        interleaver.cancel()
    return result


def _share(company: Company, envoy: Any, fn: Any, args: Any, kwargs: Any) -> bool:
    if not company.shares or company.changed_for_now():
        return False
    generates = _entry(envoy, fn)
    request = None if generates is None else request_of(generates, args, kwargs)
    if request is None:
        return False
    guest = Guest(envoy.interleaver, company.layout, request.way)
    if not guest.fits():
        return False
    counts = envoy.interleaver.counts
    try:
        return company.join(request, guest)
    finally:
        envoy.interleaver.counts = counts
        guest.end()


def _entry(envoy: Any, fn: Any) -> bool | None:
    """Whether this call generates; None if it is neither that nor a plain forward pass of this very model."""
    owner = getattr(fn, "__self__", None)
    if getattr(owner, "_module", None) is not envoy._module:  # noqa: SLF001
        return None
    if fn.__name__ == "_call":
        return False
    if fn.__name__ != "generate":
        return None
    config = getattr(envoy._module, "generation_config", None)  # noqa: SLF001
    samples = getattr(config, "do_sample", False) or (getattr(config, "num_beams", 1) or 1) != 1
    return None if config is None or samples else True
