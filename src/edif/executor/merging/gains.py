"""Whether shared passes pay: what a job takes of the processors in one, and by itself, as measured.

Processor time, and not how long passes last: in a crowd most of that is waiting for a processor, in either way, and other jobs use
them meanwhile.
"""

import statistics
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

_NEWEST = 0.25  # the weight of the newest pass in the moving average
ENOUGH = 3
"""So many passes of both ways are compared; before that it is assumed to pay."""
SHARING_S = 0.003
"""What a sealed job itself uses of a processor when it shares a pass: on being shown its visits, and on looking for what it has changed. As
measured with two visits."""
_LAST = 16
"""Of so many passes that jobs ran themselves the median counts: what one took, its job says, and one may be odd."""
_TRY_AGAIN = 64
"""After so many requests for which it was left out, one shared pass is tried again."""


@dataclass(slots=True)
class _Average:
    seconds: float = 0.0
    count: int = 0

    def note(self, seconds: float) -> None:
        self.count += 1
        self.seconds += (seconds - self.seconds) * max(_NEWEST, 1.0 / self.count)


@dataclass(slots=True)
class _Kind:
    alone_s: deque[float] = field(default_factory=lambda: deque(maxlen=_LAST))
    shared: _Average = field(default_factory=_Average)
    left_out: int = 0


@dataclass(slots=True)
class Gains:
    """By kind of request, as coarse as its sizes in powers of two."""

    _kinds: dict[Hashable, _Kind] = field(default_factory=dict)

    def alone(self, kind: Hashable, used_s: float) -> None:
        """A job ran its pass itself, to its end, which took so much processor time."""
        self._of(kind).alone_s.append(used_s)

    def shared(self, kind: Hashable, used_s: float, jobs: int) -> None:
        """So many shared one, which took so much processor time."""
        known = self._of(kind)
        known.shared.note(used_s / jobs)
        known.left_out = 0

    def pays(self, kind: Hashable) -> bool:
        """Whether the next requests of this kind are merged."""
        known = self._of(kind)
        if min(len(known.alone_s), known.shared.count) < ENOUGH or known.left_out >= _TRY_AGAIN:
            return True
        return known.shared.seconds + SHARING_S <= statistics.median(known.alone_s)

    def leave_out(self, kind: Hashable) -> None:
        """A request of this kind that had company runs by itself, since merging does not pay."""
        self._of(kind).left_out += 1

    def _of(self, kind: Hashable) -> _Kind:
        if kind not in self._kinds and len(self._kinds) >= 1000:
            self._kinds.clear()
        return self._kinds.setdefault(kind, _Kind())
