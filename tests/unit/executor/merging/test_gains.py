"""Merging is left out where it was seen not to pay, and tried again."""

from edif.executor.merging.gains import Gains


def measured(alone_s: float, shared_s: float) -> Gains:
    gains = Gains()
    for _ in range(3):
        gains.alone("kind", alone_s)
        gains.shared("kind", shared_s, 4)
    return gains


def test_it_is_assumed_to_pay_until_both_ways_were_measured() -> None:
    gains = Gains()
    for _ in range(10):
        gains.shared("kind", 9.0, 2)
        assert gains.pays("kind")
    for _ in range(2):
        gains.alone("kind", 0.1)
        assert gains.pays("kind")
    gains.alone("kind", 0.1)
    assert not gains.pays("kind")


def test_a_pass_is_compared_by_what_it_takes_for_each_of_its_jobs() -> None:
    assert measured(alone_s=0.1, shared_s=0.38).pays("kind")
    assert not measured(alone_s=0.1, shared_s=0.41).pays("kind")


def test_what_a_job_uses_on_being_shown_its_visits_counts_too() -> None:
    assert not measured(alone_s=0.004, shared_s=0.008).pays("kind")
    assert measured(alone_s=0.006, shared_s=0.008).pays("kind")


def test_what_passes_of_their_own_take_is_what_several_say_not_one() -> None:
    gains = measured(alone_s=0.1, shared_s=0.1)
    for _ in range(2):
        gains.alone("kind", 0.0)
        assert gains.pays("kind")


def test_who_says_so_again_and_again_is_believed_until_others_have_said_otherwise() -> None:
    """As long as it is believed all run their passes themselves, and so say what they take."""
    gains = measured(alone_s=0.1, shared_s=0.1)
    for _ in range(16):
        gains.alone("kind", 0.0)
    assert not gains.pays("kind")
    for _ in range(9):
        gains.alone("kind", 0.1)
    assert gains.pays("kind")


def test_other_kinds_are_not_affected() -> None:
    assert measured(alone_s=0.1, shared_s=9.0).pays("another kind")


def test_it_is_tried_again_after_a_while_and_believed_when_it_pays() -> None:
    gains = measured(alone_s=0.1, shared_s=0.8)
    for _ in range(64):
        assert not any(gains.pays("kind") for _ in range(3)), "to ask changes nothing"
        gains.leave_out("kind")
    assert gains.pays("kind")
    gains.shared("kind", 0.8, 4)
    assert not gains.pays("kind")
    for _ in range(12):
        gains.shared("kind", 0.04, 4)
    assert gains.pays("kind")
