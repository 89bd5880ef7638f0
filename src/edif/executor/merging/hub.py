"""Shared jobs, several at once in one process: each runs until it wants a forward pass, and those that are alike get one together.

They take strict turns, on greenlets of one thread, as nnsight's own workers do. What nnsight and Python keep per process
(blocks by file name, saved ids, the interleaver's workers) is each job's own and changes hands with the turn.
"""

import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from greenlet import greenlet

from edif.executor.merging import traces
from edif.executor.merging.bounds import Bounds
from edif.executor.merging.clock import Clock
from edif.executor.merging.grouping import chosen
from edif.executor.merging.guest import Guest, Reply, Visit, Wanted
from edif.executor.merging.joint_pass import JointPass, Left
from edif.executor.merging.layout import Layout
from edif.executor.merging.misfit import Misfit
from edif.executor.merging.patience import UNHURRIED_S
from edif.executor.merging.request import Request
from edif.executor.merging.turn import Turn
from edif.wire import pipe
from edif.wire.link import Merging
from edif.wire.turn_register import NOBODY

if TYPE_CHECKING:
    from edif.executor.job import LoadedModel
    from edif.executor.untouched import Untouched

_SEEDS = frozenset({"manual_seed", "seed", "set_rng_state", "set_state", "setstate", "set_seed"})
"""Who draws random numbers from the process's own generators, beginning at a seed, takes them all in one turn."""

_CHANGES_MODEL = frozenset({"data", "load_state_dict", "set_", "_module"})
"""By these a block can write to weights, which are everybody's until the runner is replaced: it is better last."""


class _Broken(BaseException):
    """What the running of a job raises ends the process, in the middle of a pass too."""


class Tenant:
    """One job in the hub: as its company, and as a party of passes.

    Args:
        run: runs the job to its end; what it raises ends the process.
        number: of the hub's jobs the how many-th it is, from 1 on.
    """

    def __init__(self, hub: "Hub", run: Callable[["Tenant"], None], number: int) -> None:
        self.number = number
        self.module = hub.model._module  # noqa: SLF001 - nnsight's own name
        self.layout = hub.layout
        self.changed = hub.untouched.changed
        self.aside = False
        self.is_there = True
        self.shares = True
        self.unshared = traces.NEEDS_OWN_PASS | _SEEDS | _CHANGES_MODEL
        self.misfits: list[str] = []
        self.shared_passes = 0
        self.tokens = 0
        self.passes: list[pipe.Shared] = []
        self._hub = hub
        self.turn = Turn(hub.loaded, hub.fresh_interleaver())
        self._greenlet = greenlet(lambda *_: run(self))
        self._request: Request | None = None
        self.asked_at = 0.0
        self._guest: Guest | None = None
        self._outcome: BaseException | None = None
        self._offered: Visit | None = None
        self._pass: tuple[JointPass, int] | None = None

    # -- as company ------------------------------------------------------------------------------------
    def join(self, request: Request, guest: Guest) -> bool:
        if not self._hub.bounds.hold(request):
            return False
        self._request, self._guest, self._outcome = request, guest, None
        self.asked_at = time.monotonic()
        shared: bool = self._greenlet.parent.switch()
        self._request = self._guest = None
        if self._outcome is not None:
            raise self._outcome
        return shared

    def changed_for_now(self) -> str:
        return "it sets an alarm" if self._hub.clock.is_taken else self._hub.untouched.changed_for_now()

    def disturbed(self) -> str:
        return self._hub.untouched.changed() if self._hub.has_several else ""

    def step_aside(self) -> None:
        if self._hub.somebody_waits and not self.changed_for_now():
            self.aside = True
            self._greenlet.parent.switch()

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.step_aside()
        with self.unhurried():  # nobody else runs meanwhile
            yield

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        self._hub.begin_stretch(self, UNHURRIED_S)
        try:
            yield
        finally:
            self._hub.begin_stretch(self)

    # -- as the hub sees it ----------------------------------------------------------------------------
    @property
    def waits(self) -> bool:
        return self._request is not None

    def go_on(self, *, shared: bool = False) -> None:
        """Run it until it wants a pass, or to its end."""
        self.aside = False
        with self._hub.turn_of(self):
            self._greenlet.switch(shared)

    # -- as a party ------------------------------------------------------------------------------------
    @property
    def request(self) -> Request:
        assert self._request is not None
        return self._request

    def begin(self, counts: "array[int]") -> Wanted:
        assert self._guest is not None
        with self._hub.turn_of(self):
            self._guest.begin(counts.__getitem__)
            return self._guest.wanted()

    def offer(self, visit: Visit) -> None:
        self._offered = visit

    def answer(self) -> tuple[Reply, Wanted]:
        assert self._guest is not None
        # As long as it is held, the pass seems to have use for it.
        offered, self._offered = self._offered, None
        assert offered is not None
        with self._hub.turn_of(self):
            try:
                answer = self._guest.serve(offered), self._guest.wanted()
            except BaseException as outcome:  # noqa: BLE001 - the job gets it when its turn comes
                self._outcome = outcome
            else:
                if not (changed := self.changed_for_now()):
                    return answer
                self._outcome = Misfit(changed)
                self._guest.unwind()  # before anybody else's turn
        raise Left

    def drop(self, reason: str) -> None:
        with self._hub.turn_of(self):  # where its misfits are noted
            self._outcome = Misfit(reason)

    def enter(self, joint: JointPass, number: int) -> None:
        self._pass = joint, number

    def release(self) -> None:
        if self.request.generates:  # other passes are over soon
            try:
                self.end()
            except Exception as error:
                raise _Broken from error

    def end(self, failed: str = "") -> None:
        """Its part in the pass is over, and void if that ``failed``: it goes on, if it has not yet."""
        if self._pass is None:
            return
        if failed:
            self.drop(failed)
        joint, number = self._pass
        self._pass = None
        self.shared_passes += 1
        self.tokens += joint.tokens[number]
        waited_s = time.monotonic() - self.asked_at
        self.passes.append(pipe.Shared(0, joint.rows, self.request.rows, joint.seconds, waited_s))
        self.go_on(shared=True)


class Hub:
    """
    Args:
        loaded: the served model.
        layout: the model's.
        merging: the bounds of shared passes.
        untouched: notices what a job has changed of the process.
        has_turn: told of each turn whose it is, by the job's number, and for how long at a stretch, in seconds; and :data:`NOBODY` when
            it is over.
        somebody_comes: whether there are jobs that have not been let in yet.
    """

    def __init__(
        self,
        loaded: "LoadedModel",
        layout: Layout,
        merging: Merging,
        untouched: "Untouched",
        has_turn: Callable[[int, float], None] = lambda *_: None,
        somebody_comes: Callable[[], bool] = lambda: False,
    ) -> None:
        self.loaded = loaded
        self.model = loaded.model
        self.layout = layout
        self.untouched = untouched
        self.bounds = Bounds(loaded.module, merging)
        self._merging = merging
        self._own = vars(loaded.model.interleaver)
        self._tenants: list[Tenant] = []
        self._begun = False
        self._has_turn = has_turn
        self._somebody_comes = somebody_comes
        self._entered = 0
        self._in_turn: Tenant | None = None
        self.clock = Clock(self._others_wait)

    def fresh_interleaver(self) -> dict[str, Any]:
        """The interleaver's state as it is before any trace."""
        fresh = vars(type(self.model.interleaver)())
        return {**fresh, "envoys": self._own["envoys"], "fragments": self._own["fragments"]}

    @property
    def somebody_waits(self) -> bool:
        """Whether there is somebody whom to let go first."""
        return not self._begun or any(each.waits for each in self._tenants)

    @property
    def has_several(self) -> bool:
        """Whether other jobs run at the same time as this one."""
        return len(self._tenants) > 1

    def run(self, jobs: Iterable[Callable[[Tenant], None]]) -> None:
        """Run these jobs to their ends. Each begins before the next one is asked for."""
        self._tenants = []
        self._begun = False
        for job in jobs:
            self._entered += 1
            self._tenants.append(Tenant(self, job, self._entered))
            self._tenants[-1].go_on()
            self.clock.patience.began(self.clock.stretch_s)
        self._begun = True
        while True:
            longest_first = sorted(self._tenants, key=lambda each: each.asked_at)
            if waiting := [(each, each.request) for each in longest_first if each.waits]:
                self._run_pass(chosen(waiting, self._merging.rows, self._merging.tokens, self.layout.bucket))
            elif aside := [each for each in self._tenants if each.aside]:
                aside[0].go_on()
            else:
                break
        self._tenants = []

    def _run_pass(self, tenants: list[Tenant]) -> None:
        if len(tenants) == 1 and not self._merging.always:
            tenants[0].go_on(shared=False)
            return
        joint = JointPass(self.model, self.layout, tenants)
        for number, tenant in enumerate(tenants):
            tenant.enter(joint, number)
        failed = ""
        try:
            joint.run()
        except Exception as error:  # noqa: BLE001 - what a model raises on all rows together says nothing of one job
            failed = f"the shared pass failed: {type(error).__name__}"
        self.clock.patience.passed(joint.seconds)
        for tenant in tenants:
            tenant.end(failed)

    @contextmanager
    def turn_of(self, tenant: Tenant) -> Iterator[None]:
        """Within the block the process's state is this job's, and its code does not keep the others waiting for long."""
        self.clock.stop()  # the process may have been put back since the last one
        tenant.turn.change()
        traces.enter(tenant)
        self._in_turn = tenant
        self.begin_stretch(tenant)
        try:
            yield
        finally:
            self.clock.stop()
            self._has_turn(NOBODY, 0.0)
            traces.enter(None)
            tenant.turn.change()

    def begin_stretch(self, tenant: Tenant, most_s: float | None = None) -> None:
        """From now on the code of the job whose turn it is may run for so long; None: for as long as is usual."""
        self.clock.start(most_s)
        self._has_turn(tenant.number, self.clock.most_s)

    def _others_wait(self) -> bool:
        """Whether anybody else than the job whose turn it is waits. Who comes while it runs does as those that were there before."""
        return (
            any(each.waits for each in self._tenants if each is not self._in_turn) or self._somebody_comes()
        )
