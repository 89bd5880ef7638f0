"""Whether shared passes pay: what a job takes of the processors in one, and by itself, as measured."""

from collections.abc import Hashable
from dataclasses import dataclass, field

_NEWEST = 0.25  # the weight of the newest pass in the moving averages
ENOUGH = 3
"""So many passes of both ways are compared; before that it is assumed to pay."""
SHARING_S = 0.012
"""What a sealed job spends beside the pass when it shares one: on being shown its visits, and on looking for what it has changed. As
measured on two cores; on passes that are shorter than this nothing can be saved."""
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
    alone: _Average = field(default_factory=_Average)
    fastest_s: float = float("inf")  # of those alone: without others beside it
    shared: _Average = field(default_factory=_Average)
    left_out: int = 0


@dataclass(slots=True)
class Gains:
    """By kind of request, as coarse as its sizes in powers of two."""

    _kinds: dict[Hashable, _Kind] = field(default_factory=dict)

    def alone(self, kind: Hashable, seconds: float, at_once: int) -> None:
        """A job ran its pass itself, while so many, itself included, did."""
        known = self._of(kind)
        known.alone.note(seconds / max(at_once, 1))
        known.fastest_s = min(known.fastest_s, seconds)

    def shared(self, kind: Hashable, seconds: float, jobs: int) -> None:
        self._of(kind).shared.note(seconds / jobs)

    def pays(self, kind: Hashable) -> bool:
        """Whether the next requests of this kind are merged."""
        known = self._of(kind)
        if known.alone.count >= ENOUGH and known.fastest_s < SHARING_S:
            return False
        measured = min(known.alone.count, known.shared.count) >= ENOUGH
        if not measured or known.shared.seconds <= known.alone.seconds:
            known.left_out = 0
            return True
        known.left_out += 1
        if known.left_out >= _TRY_AGAIN:
            known.left_out = 0
            return True
        return False

    def _of(self, kind: Hashable) -> _Kind:
        if kind not in self._kinds and len(self._kinds) >= 1000:
            self._kinds.clear()
        return self._kinds.setdefault(kind, _Kind())
