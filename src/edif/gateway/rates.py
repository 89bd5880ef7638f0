"""How often each caller may ask, and how fast requests are taken up and refusals leave."""

import math

from cachetools import LRUCache

from edif.core import errors
from edif.core.errors import OverLimit

_BURST_S = 5.0
_LONGEST_WAIT_S = 10.0
_CALLERS = 10_000


class RateLimiter:
    """Allows each caller ``per_s`` calls a second, and five seconds' worth of them (at least one) at once.

    Of callers it knows the ten thousand that called last. Who has many addresses pushes out the oldest, among
    them their own, and never frees one who goes on calling.

    Args:
        what: what is counted, as in "More than 20 WHAT a second came from".
    """

    def __init__(self, what: str, per_s: float) -> None:
        self._what = what
        self._per_s = per_s
        self._burst = max(per_s * _BURST_S, 1.0)
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(_CALLERS)

    def check(self, caller: str, now: float) -> None:
        """
        Raises:
            OverLimit: the caller has no call left; nothing is taken.
        """
        tokens = self._tokens(caller, now)
        if tokens < 1:
            wait_s = math.ceil((1 - tokens) / self._per_s)
            raise OverLimit(
                errors.RATE_LIMITED,
                f"More than {self._per_s:g} {self._what} a second came from {caller}; "
                f"the next is answered in {wait_s} s.",
                retry_after_s=wait_s,
            )

    def take(self, caller: str, now: float) -> None:
        """Count one call.

        Raises:
            OverLimit: as :meth:`check`.
        """
        self.check(caller, now)
        self._buckets[caller] = (self._tokens(caller, now) - 1, now)

    def _tokens(self, caller: str, now: float) -> float:
        tokens, then = self._buckets.get(caller, (self._burst, now))
        return min(self._burst, tokens + (now - then) * self._per_s)


class Pace:
    """Spreads turns in time: each caller gets ``per_s`` of them a second, and so many at once.

    Nobody waits for more than ten seconds: more callers would give up than be slowed down. Of callers it
    knows as many as :class:`RateLimiter`.

    Args:
        at_once: turns that need not wait after a rest; five seconds' worth if not given.
    """

    def __init__(self, per_s: float, at_once: float | None = None) -> None:
        self._gap_s = 1 / per_s
        self._burst_s = _BURST_S if at_once is None else at_once * self._gap_s
        self._due: LRUCache[str, float] = LRUCache(_CALLERS)

    def wait_s(self, caller: str, now: float) -> float:
        """How long this caller's next turn waits; it is counted."""
        due = max(self._due.get(caller, 0.0), now - self._burst_s) + self._gap_s
        self._due[caller] = min(due, now + _LONGEST_WAIT_S)
        return max(0.0, self._due[caller] - now)
