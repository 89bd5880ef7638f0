"""How fast results have come lately."""

from collections import deque
from statistics import median
from threading import Lock

from edif.core.limits import MIB

REQUEST_BYTES = 128 * 1024
"""What a further request costs, in bytes that come in its time: about as much next door (a millisecond of a fast line) as from afar (40 ms of a slow one)."""
_LEAST_BYTES = MIB  # of less, most of the time is the way there and back
_REMEMBERED = 5


class LinkSpeed:
    """Of the way from a fabric to this program: the median of the last few downloads, so that one stall does not count."""

    def __init__(self) -> None:
        self._speeds: deque[float] = deque(maxlen=_REMEMBERED)
        self._lock = Lock()

    def note(self, size_bytes: int, seconds: float) -> None:
        """One download: while something of it was on its way, it took so many seconds."""
        if size_bytes > _LEAST_BYTES and seconds > 0:
            with self._lock:
                self._speeds.append(size_bytes / seconds)

    @property
    def bytes_per_s(self) -> float:
        """0 as long as nothing is known."""
        with self._lock:
            return median(self._speeds) if self._speeds else 0.0
