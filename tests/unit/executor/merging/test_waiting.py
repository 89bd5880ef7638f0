"""Who waits for which visit of a pass, against a list that is searched."""

from hypothesis import given
from hypothesis import strategies as st

from edif.executor.merging.visit import Wanted
from edif.executor.merging.waiting import Waiting

PARTIES, LOCATIONS, OCCURRENCES = range(4), range(3), range(2)
wants = st.builds(
    Wanted,
    st.lists(st.tuples(st.sampled_from(LOCATIONS), st.sampled_from(OCCURRENCES)), max_size=3),
    st.lists(st.sampled_from(LOCATIONS), max_size=2),
)
steps = st.lists(st.tuples(st.sampled_from(PARTIES), st.none() | wants), max_size=12)


@given(steps)
def test_it_is_as_if_all_were_asked(steps: list[tuple[int, Wanted | None]]) -> None:
    waiting, present = Waiting(), dict[int, Wanted]()
    for party, wanted in steps:
        if wanted is None:
            waiting.forget(party)
            present.pop(party, None)
        else:
            waiting.note(party, wanted)
            present[party] = wanted
    assert bool(waiting) == bool(present)
    assert [each for each in PARTIES if each in waiting] == sorted(present)
    assert sorted(waiting.watchers()) == sorted(each for each, wanted in present.items() if wanted.watched)
    for party in PARTIES:
        assert waiting.has_all(party) == (present.get(party, Wanted([], [])) == ([], []))
    for location in LOCATIONS:
        for occurrence in OCCURRENCES:
            assert waiting.for_visit(location, occurrence) == [
                each
                for each, wanted in sorted(present.items())
                if location in wanted.watched or (location, occurrence) in wanted.visits
            ]
