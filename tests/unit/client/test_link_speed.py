"""How fast a line is said to be."""

from edif.client.link_speed import LinkSpeed

MIB = 2**20


def test_nothing_is_known_before_something_large_has_come() -> None:
    line = LinkSpeed()
    line.note(MIB, 1.0)
    line.note(2 * MIB, 0.0)
    assert line.bytes_per_s == 0


def test_one_stall_does_not_count_and_a_new_place_does() -> None:
    line = LinkSpeed()
    for seconds in (1.0, 1.0, 100.0):
        line.note(10 * MIB, seconds)
    assert line.bytes_per_s == 10 * MIB
    for _ in range(3):
        line.note(10 * MIB, 0.1)
    assert line.bytes_per_s == 100 * MIB
