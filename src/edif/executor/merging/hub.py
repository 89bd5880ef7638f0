"""Shared jobs, several at once in one process: each runs until it wants a forward pass, and those that are alike get one together.

They take strict turns, on greenlets of one thread, as nnsight's own workers do. What nnsight and Python keep per process
(blocks by file name, saved ids, the interleaver's workers) is each job's own and changes hands with the turn.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edif.executor.merging import traces
from edif.executor.merging.bounds import Bounds
from edif.executor.merging.clock import Clock
from edif.executor.merging.grouping import chosen
from edif.executor.merging.joint_pass import JointPass
from edif.executor.merging.layout import Layout
from edif.executor.merging.patience import Taken
from edif.executor.merging.tenant import Tenant
from edif.wire.link import Merging
from edif.wire.turn_register import NOBODY

if TYPE_CHECKING:
    from edif.executor.job import LoadedModel
    from edif.executor.untouched import Untouched


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
        taken = Taken(self.clock.patience.seconds)
        for number, tenant in enumerate(tenants):
            tenant.enter(joint, number, taken)
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
