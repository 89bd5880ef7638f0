"""Which parties of a shared pass wait for which of its visits."""

from collections.abc import Iterator

from edif.executor.merging.visit import Wanted


class Waiting:
    """Parties by their numbers. Asked at every location of the pass, so a location that nobody waits for costs one look into a table."""

    def __init__(self) -> None:
        self._wanted: dict[int, Wanted] = {}
        self._awaited: dict[int, set[int]] = {}

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._wanted)

    def __contains__(self, party: int) -> bool:
        """Whether the party is still in the pass."""
        return party in self._wanted

    def note(self, party: int, wanted: Wanted) -> None:
        """It waits for this from now on, and for nothing else."""
        self.forget(party)
        self._wanted[party] = wanted
        for location in _locations(wanted):
            self._awaited.setdefault(location, set()).add(party)

    def forget(self, party: int) -> None:
        """It is in the pass no longer."""
        wanted = self._wanted.pop(party, None)
        if wanted is not None:
            for location in _locations(wanted):
                self._awaited[location].discard(party)

    def has_all(self, party: int) -> bool:
        """Whether it waits for nothing any more, or is gone."""
        wanted = self._wanted.get(party)
        return wanted is None or not (wanted.visits or wanted.watched)

    def for_visit(self, location: int, occurrence: int) -> list[int]:
        """Those who wait for this visit of the location, in the order of their numbers."""
        there = self._awaited.get(location)
        if not there:
            return []
        return [
            party
            for party in sorted(there)
            if location in self._wanted[party].watched or (location, occurrence) in self._wanted[party].visits
        ]

    def watchers(self) -> Iterator[int]:
        """Those who record every visit of some location."""
        return (party for party, wanted in list(self._wanted.items()) if wanted.watched)


def _locations(wanted: Wanted) -> set[int]:
    return {location for location, _ in wanted.visits} | set(wanted.watched)
