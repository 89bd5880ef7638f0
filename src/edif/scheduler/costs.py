"""What a job is expected to cost before it has run."""

from dataclasses import dataclass, field

DEFAULT_COST_S = 1.0
"""Expected of a model's first job, in accelerator seconds."""
LEAST_COST_S = 0.01
"""Charged at least: a slot is taken for about that long even by a job that fails at once, and clocks must go on."""
_NEWEST = 0.25  # the weight of the newest job in the moving average


@dataclass(slots=True)
class Costs:
    """Moving averages of one model's jobs, by user and over all; exponential, over some four to eight jobs."""

    _users: dict[str, float] = field(default_factory=dict)
    _model: float | None = None

    def expected(self, user: str) -> float:
        """Accelerator seconds: as the user's recent jobs, else as the model's, else the default."""
        known = self._users.get(user, self._model)
        return DEFAULT_COST_S if known is None else known

    def observe(self, user: str, cost_s: float) -> None:
        self._users[user] = _moved(self._users.get(user), cost_s)
        self._model = _moved(self._model, cost_s)

    def copy(self) -> "Costs":
        return Costs(self._users.copy(), self._model)


def _moved(average: float | None, newest: float) -> float:
    return newest if average is None else average + _NEWEST * (newest - average)
