"""Jobs as a shared runner has them, in the test process: one by itself, or several in a hub."""

import linecache
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from nnsight.intervention.cache import CacheView
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend
from transformers import DynamicCache

from edif.core.errors import JobFailed
from edif.executor.job import LoadedModel, run_job
from edif.executor.keeping import Keeping, Opened
from edif.executor.merging import traces
from edif.executor.merging.hub import Hub
from edif.executor.merging.learning import layout_of
from edif.executor.merging.misfit import Misfit
from edif.executor.merging.padding import learn_padding
from edif.executor.merging.probes import difference
from edif.executor.merging.tenant import Tenant
from edif.executor.output import OutputRelay
from edif.executor.reset import forget_nnsight
from edif.executor.untouched import Untouched
from edif.executor.weights import WeightArena
from edif.wire import pipe
from edif.wire.link import Merging
from tests.unit.executor.merging.tiny import TOLERANCE

Program = Callable[[Any, Backend], None]
"""Writes one trace of the model, to be sent to this backend."""
BOUNDS = Merging(rows=32, tokens=4096, tolerance=TOLERANCE, alone_at_once=1)


class _Kept(Backend):
    def __init__(self) -> None:
        self.payload = b""

    def __call__(self, tracer: Any = None) -> None:
        self.payload = RequestModel.serialize(tracer, compress=False)


def payload(model: Any, program: Program) -> bytes:
    """The request that ``remote=True`` would send."""
    kept = _Kept()
    program(model, kept)
    _forget()
    return kept.payload


def _forget() -> None:
    """As a runner does after its jobs: a block that came in a request stands in the place of the file that it names."""
    forget_nnsight()
    linecache.clearcache()


class Ended(NamedTuple):
    """How a job came to its end.

    Attributes:
        saved: what it saved, by name.
        failed: the sentence of its failure.
        misfit: why it is to be run alone.
        printed: what it printed.
        kept: the tensors that it keeps on the fabric.
        shared: how many passes it shared.
        tokens: input tokens of them.
        passes: what is said of each.
    """

    saved: dict[str, Any]
    failed: str
    misfit: str
    printed: str
    kept: list[torch.Tensor]
    shared: int
    tokens: int
    passes: Sequence[pipe.Shared] = ()


class Site:
    """A served model with what it takes to run jobs on it, and the same one as its clients have it.

    Args:
        padding: whether prompts of different length may share passes.
    """

    def __init__(self, build: Callable[[], Any], *, padding: bool = False) -> None:
        self.client = build()
        self.model = model = build()
        self.loaded = LoadedModel(model, {})
        self.layout = layout_of(model)
        if padding:
            learn_padding(self.layout, model, TOLERANCE)
        self.untouched = Untouched(self.loaded.module, WeightArena(self.loaded.module).guard())

    def close(self) -> None:
        self.loaded.release()

    def solo(self, program: Program) -> Ended:
        """Run by itself, as without merging."""
        ended: list[Ended] = []
        self._job(payload(self.client, program), ended)(None)
        _forget()
        return ended[0]

    def merged(self, *programs: Program, bounds: Merging = BOUNDS, **told: Callable[..., Any]) -> list[Ended]:
        """Run in one hub, all there at the same time; ``told`` are more arguments of it."""
        payloads = [payload(self.client, each) for each in programs]
        ends: list[list[Ended]] = [[] for _ in payloads]
        before = signal.getsignal(signal.SIGALRM)
        interleaver, signs = vars(self.model.interleaver), torch.is_grad_enabled()
        try:
            hub = Hub(self.loaded, self.layout, bounds, self.untouched, **told)
            hub.run([self._job(*each) for each in zip(payloads, ends, strict=True)])
        finally:
            signal.signal(signal.SIGALRM, before)
            traces.enter(None)
            _forget()
        assert vars(self.model.interleaver) is interleaver
        assert torch.is_grad_enabled() is signs
        return [each for (each,) in ends]

    def _job(self, sent: bytes, ended: list[Ended]) -> Callable[[Tenant | None], None]:
        def run(tenant: Tenant | None) -> None:
            printed: list[str] = []
            saved: dict[str, Any] = {}
            failed = misfit = ""
            keeping = Keeping()
            try:
                with OutputRelay(printed.append, 10_000):
                    saved = run_job(self.loaded, sent, self.loaded.plain_env, Opened({}), tenant)
            except JobFailed as error:
                failed = error.sentence
            except Misfit as error:
                misfit = str(error)
            finally:
                Keeping.forget()
            shared, tokens = (0, 0) if tenant is None else (tenant.shared_passes, tenant.tokens)
            kept = list(keeping._marked.values())
            passes = [] if tenant is None else tenant.passes
            ended.append(Ended(saved, failed, misfit, "\n".join(printed), kept, shared, tokens, passes))

        return run


@contextmanager
def site(build: Callable[[], Any], *, padding: bool = False) -> Iterator[Site]:
    made = Site(build, padding=padding)
    try:
        yield made
    finally:
        made.close()


def flat(value: Any) -> Iterator[Any]:
    """Every leaf of nested containers, nnsight's caches and key-value caches among them."""
    if isinstance(value, CacheView):
        value = [(each.inputs, each.output) for key in value.keys() for each in value[key]._entries()]  # noqa: SIM118
    if isinstance(value, DynamicCache):
        value = [type(value), *((type(each), vars(each)) for each in value.layers)]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from flat(each)
    else:
        yield value


def same(one: Any, other: Any, ulps: float = 0.0) -> bool:
    """Whether all tensors in it are equal in their bits, or within so many units in the last place."""
    ones, others = list(flat(one)), list(flat(other))
    return len(ones) == len(others) and all(_same(*pair, ulps) for pair in zip(ones, others, strict=True))


def _same(one: Any, other: Any, ulps: float) -> bool:
    if not isinstance(one, torch.Tensor):
        return bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) if ulps == 0 else difference(one, other) <= ulps


def fits(alone: Ended, merged: Ended, ulps: float = 0.0) -> bool:
    """Whether a job that shared passes has come out as alone."""
    return (
        not merged.misfit
        and alone.failed == merged.failed
        and alone.printed == merged.printed
        and alone.saved.keys() == merged.saved.keys()
        and same(alone.saved, merged.saved, ulps)
    )


def all_fit(place: Site, programs: Sequence[Program], ulps: float = 0.0, *, shared: int = 1) -> list[Ended]:
    """Run these together, and check that each comes out as alone and has shared so many passes at least."""
    alone = [place.solo(each) for each in programs]
    merged = place.merged(*programs)
    for number, (one, other) in enumerate(zip(alone, merged, strict=True)):
        assert fits(one, other, ulps), (number, one, other)
        assert other.shared >= shared, (number, other.misfit)
    return merged
