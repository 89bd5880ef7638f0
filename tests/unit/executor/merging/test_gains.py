"""Merging is left out where it was seen not to pay, and tried again."""

from edif.executor.merging.gains import Gains


def measured(alone_s: float, shared_s: float, at_once: int = 1) -> Gains:
    gains = Gains()
    for _ in range(3):
        gains.alone("kind", alone_s, at_once)
        gains.shared("kind", shared_s, 4)
    return gains


def test_it_is_assumed_to_pay_until_both_ways_were_measured() -> None:
    gains = Gains()
    for _ in range(10):
        gains.shared("kind", 9.0, 2)
        assert gains.pays("kind")
    for _ in range(2):
        gains.alone("kind", 0.1, 1)
        assert gains.pays("kind")
    gains.alone("kind", 0.1, 1)
    assert not gains.pays("kind")


def test_a_pass_is_compared_by_what_it_takes_for_each_of_its_jobs() -> None:
    assert measured(alone_s=0.1, shared_s=0.39).pays("kind")
    assert not measured(alone_s=0.1, shared_s=0.41).pays("kind")


def test_passes_that_ran_beside_each_other_shared_the_processors() -> None:
    assert not measured(alone_s=0.1, shared_s=0.3, at_once=2).pays("kind")


def test_nothing_is_saved_on_passes_that_are_shorter_than_what_sharing_takes() -> None:
    assert not measured(alone_s=0.008, shared_s=0.008).pays("kind")
    assert measured(alone_s=0.02, shared_s=0.02).pays("kind")


def test_that_passes_are_short_is_what_several_say_not_one() -> None:
    gains = measured(alone_s=0.1, shared_s=0.1)
    gains.alone("kind", 0.0, 1)
    assert gains.pays("kind")


def test_who_says_so_again_and_again_is_believed_until_others_have_said_otherwise() -> None:
    """As long as it is believed all run their passes themselves, and so say how long they are."""
    gains = measured(alone_s=0.1, shared_s=0.1)
    for _ in range(16):
        gains.alone("kind", 0.0, 1)
    assert not gains.pays("kind")
    for _ in range(12):
        assert not gains.pays("kind")
        gains.alone("kind", 0.1, 1)
    for _ in range(3):
        gains.shared("kind", 0.1, 4)
    assert gains.pays("kind")


def test_some_that_had_much_beside_them_do_not_make_passes_long() -> None:
    gains = Gains()
    for seconds in [0.008, 0.2] * 8:
        gains.alone("kind", seconds, 1)
    assert not gains.pays("kind")


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
