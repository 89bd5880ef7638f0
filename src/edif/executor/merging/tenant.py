"""One job of a shared runner, as others meet it: it is company to itself and a party of passes.

It runs on a greenlet of its own, and only while it is its turn.
"""

import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from greenlet import greenlet

from edif.executor.merging import traces
from edif.executor.merging.guest import Guest
from edif.executor.merging.joint_pass import JointPass, Left
from edif.executor.merging.misfit import Misfit
from edif.executor.merging.patience import UNHURRIED_S, Taken
from edif.executor.merging.request import Request
from edif.executor.merging.turn import Turn
from edif.executor.merging.visit import Reply, Visit, Wanted
from edif.wire import pipe

if TYPE_CHECKING:
    from edif.executor.merging.hub import Hub

_SEEDS = frozenset({"manual_seed", "seed", "set_rng_state", "set_state", "setstate", "set_seed"})
"""Who draws random numbers from the process's own generators, beginning at a seed, takes them all in one turn."""

_CHANGES_MODEL = frozenset({"data", "load_state_dict", "set_", "_module"})
"""By these a block can write to weights, which are everybody's until the runner is replaced: it is better last."""


class Broken(BaseException):
    """What the running of a job raises ends the process, in the middle of a pass too."""


class _InPass(NamedTuple):
    """A pass that a job takes part in, its number there, and what all of them have taken."""

    joint: JointPass
    number: int
    taken: Taken


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
        self._pass: _InPass | None = None

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
                if not (reason := self.changed_for_now() or self._dawdles(answer[1])):
                    return answer
                self._outcome = Misfit(reason)
                self._guest.unwind()  # before anybody else's turn
        raise Left

    def _dawdles(self, wanted: Wanted) -> str:
        """Whether others would go on waiting for it that have waited enough, as a reason; empty if not."""
        assert self._pass is not None
        joint, number, taken = self._pass
        too_much = taken.note(number, self._hub.clock.stretch_s, joint.seconds)
        goes_on = self._hub.has_several and bool(wanted.visits or wanted.watched)
        return "its code took long in all while others waited" if too_much and goes_on else ""

    def drop(self, reason: str) -> None:
        with self._hub.turn_of(self):  # where its misfits are noted
            self._outcome = Misfit(reason)

    def enter(self, joint: JointPass, number: int, taken: Taken) -> None:
        self._pass = _InPass(joint, number, taken)

    def release(self) -> None:
        if self.request.generates:  # other passes are over soon
            try:
                self.end()
            except Exception as error:
                raise Broken from error

    def end(self, failed: str = "") -> None:
        """Its part in the pass is over, and void if that ``failed``: it goes on, if it has not yet."""
        if self._pass is None:
            return
        if failed:
            self.drop(failed)
        joint, number, _ = self._pass
        self._pass = None
        self.shared_passes += 1
        self.tokens += joint.tokens[number]
        waited_s = time.monotonic() - self.asked_at
        self.passes.append(pipe.Shared(0, joint.rows, self.request.rows, joint.seconds, waited_s))
        self.go_on(shared=True)
