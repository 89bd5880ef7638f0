"""A token bucket per caller."""

from edif.core import errors
from edif.core.errors import OverLimit

_BURST_S = 5.0
_CALLERS = 10_000


class RateLimiter:
    """Allows each caller ``per_s`` calls a second, and five seconds' worth of them (at least one) at once."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def check(self, caller: str, per_s: float, now: float) -> None:
        """
        Raises:
            OverLimit: the caller asks too often.
        """
        burst = max(per_s * _BURST_S, 1.0)
        tokens, then = self._buckets.get(caller, (burst, now))
        tokens = min(burst, tokens + (now - then) * per_s)
        if tokens < 1:
            raise OverLimit(
                errors.RATE_LIMITED, f"More than {per_s:g} such requests a second came from {caller}."
            )
        if len(self._buckets) >= _CALLERS:
            self._buckets.clear()
        self._buckets[caller] = (tokens - 1, now)
