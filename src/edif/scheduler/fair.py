"""Start-time fair queueing over flows with weights, for costs that are known only afterwards.

After Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996). Each flow has a clock: the accelerator
seconds that it was charged, divided by its weight. The flow with the least clock is next; the clock of the flow that
was chosen last is the *virtual time*. What differs from the paper: a dispatch is charged with the expected cost and
corrected when the true one is known, and there may be many servers (nothing below counts them).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from edif.scheduler.ranking import Ranking


class Flow(NamedTuple):
    """One flow's clock, in seconds per weight.

    A backlog is a time in which the flow always had something to dispatch. Its clock is
    ``max(before, floor) + charged``: a flow that comes back begins at the virtual time, so that idle time is no credit,
    and a correction of what was dispatched in an earlier backlog can never bring it below that.

    Attributes:
        weight: its share, in relation to the flows beside it.
        before: the clock at the end of the earlier backlogs; their corrections go here.
        floor: the virtual time at which the present backlog began.
        charged: what was charged in the present backlog.
        backlog: number of the present backlog.
        held: it is not among the ready ones because of a limit, though it has something to dispatch.
    """

    weight: float
    before: float = 0.0
    floor: float = 0.0
    charged: float = 0.0
    backlog: int = 0
    held: bool = False

    @property
    def clock(self) -> float:
        return max(self.before, self.floor) + self.charged

    def back(self, floor: float) -> "Flow":
        """The flow at the beginning of its next backlog."""
        return Flow(self.weight, self.clock, floor, 0.0, self.backlog + 1)

    def corrected(self, backlog: int, cost_s: float) -> "Flow":
        """Charged with ``cost_s`` more, or less, for something dispatched in this backlog."""
        weight, before, floor, charged, present, held = self
        if backlog == present:
            charged += cost_s / weight
        else:
            before += cost_s / weight
        return Flow(weight, before, floor, charged, present, held)

    def reweighed(self, weight: float, virtual: float) -> "Flow":
        """With another weight: the seconds that it is ahead of the virtual time stay what they are."""
        ahead = max(self.clock - virtual, 0.0)
        before = virtual + ahead * self.weight / weight if ahead else self.clock
        return Flow(weight, before, min(before, virtual), 0.0, self.backlog + 1, self.held)


@dataclass(slots=True)
class FairQueue:
    """Flows beside each other, one of which is next."""

    virtual: float = 0.0
    flows: dict[str, Flow] = field(default_factory=dict)
    ready: Ranking[tuple[float, int], str] = field(default_factory=Ranking)
    _entries: int = 0

    def place(self, name: str, weight: float, *, waiting: bool, allowed: bool, credit_s: float) -> None:
        """Say how it stands with a flow now.

        Args:
            waiting: whether it has something to dispatch.
            allowed: whether its limit lets it.
            credit_s: a flow that its limit held back keeps its place, but at most so far behind the virtual time.
                Without an end to it, a flow that is always at its limit would hoard.
        """
        flow = self.flows.get(name)
        if flow is None:
            flow = self.flows[name] = Flow(weight)
        elif flow.weight != weight:
            flow = self.flows[name] = flow.reweighed(weight, self.virtual)
            if name in self.ready:
                self._rank(name, flow)
        if not (waiting and allowed):
            held = waiting and (flow.held or name in self.ready)
            self.ready.discard(name)
            if flow.held != held:
                self.flows[name] = flow._replace(held=held)
        elif name not in self.ready:
            credit = credit_s / weight if flow.held else 0.0
            flow = self.flows[name] = flow.back(self.virtual - credit)
            self._rank(name, flow)

    def next(self) -> str | None:
        return self.ready.first()

    def advance(self, name: str) -> None:
        """``name`` is chosen: its clock is the virtual time, which never goes back."""
        self.virtual = max(self.virtual, self.flows[name].clock)

    def charge(self, name: str, cost_s: float) -> int:
        """Returns the flow's backlog, for :meth:`correct`."""
        backlog = self.flows[name].backlog
        self.correct(name, backlog, cost_s)
        return backlog

    def correct(self, name: str, backlog: int, cost_s: float) -> None:
        """Charge so much more, or less, for something that was dispatched in this backlog."""
        flow = self.flows[name] = self.flows[name].corrected(backlog, cost_s)
        if name in self.ready:
            self._rank(name, flow)

    def _rank(self, name: str, flow: Flow) -> None:
        self._entries += 1
        self.ready.put(name, (flow.clock, self._entries))

    def copy(self) -> "FairQueue":
        return FairQueue(self.virtual, self.flows.copy(), self.ready.copy(), self._entries)
