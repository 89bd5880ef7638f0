"""Whether shared passes pay: what a job takes of the processors in one, and by itself, as measured."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

_NEWEST = 0.25  # the weight of the newest pass in the moving averages
ENOUGH = 3
"""So many passes of both ways are compared; before that it is assumed to pay."""
SHARING_S = 0.012
"""What a sealed job spends beside the pass when it shares one: on being shown its visits, and on looking for what it has changed. As
measured on two cores; on passes that are shorter than this nothing can be saved."""
_LAST = 16
"""Of so many passes that jobs ran themselves the shorter ones say how short passes are: those had the least beside them. The very shortest
do not: how long a pass was, its job says, and one may be odd."""
_TRY_AGAIN = 64
"""After so many requests for which it was left out, one shared pass is tried again; but not of passes that are too short."""


@dataclass(slots=True)
class _Average:
    seconds: float = 0.0
    count: int = 0

    def note(self, seconds: float) -> None:
        self.count += 1
        self.seconds += (seconds - self.seconds) * max(_NEWEST, 1.0 / self.count)


@dataclass(slots=True)
class _Kind:
    alone: _Average = field(default_factory=_Average)
    lately_alone_s: deque[float] = field(default_factory=lambda: deque(maxlen=_LAST))
    shared: _Average = field(default_factory=_Average)
    left_out: int = 0

    @property
    def too_short(self) -> bool:
        """Whether passes are too short for anything to be saved on them."""
        several = len(self.lately_alone_s) >= ENOUGH
        return several and sorted(self.lately_alone_s)[max(len(self.lately_alone_s) // 4, 1)] < SHARING_S


@dataclass(slots=True)
class Gains:
    """By kind of request, as coarse as its sizes in powers of two."""

    _kinds: dict[Hashable, _Kind] = field(default_factory=dict)

    def alone(self, kind: Hashable, seconds: float, at_once: int) -> None:
        """A job ran its pass itself, to its end, while so many, itself included, did."""
        known = self._of(kind)
        known.alone.note(seconds / max(at_once, 1))
        known.lately_alone_s.append(seconds)

    def shared(self, kind: Hashable, seconds: float, jobs: int) -> None:
        known = self._of(kind)
        known.shared.note(seconds / jobs)
        known.left_out = 0

    def pays(self, kind: Hashable) -> bool:
        """Whether the next requests of this kind are merged."""
        known = self._of(kind)
        if known.too_short:
            return False
        measured = min(known.alone.count, known.shared.count) >= ENOUGH
        return not measured or known.shared.seconds <= known.alone.seconds or known.left_out >= _TRY_AGAIN

    def leave_out(self, kind: Hashable) -> None:
        """A request of this kind that had company runs by itself, since merging does not pay."""
        self._of(kind).left_out += 1

    def _of(self, kind: Hashable) -> _Kind:
        if kind not in self._kinds and len(self._kinds) >= 1000:
            self._kinds.clear()
        return self._kinds.setdefault(kind, _Kind())
