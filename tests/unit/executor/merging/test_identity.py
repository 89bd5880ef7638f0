"""Which tensors of a pass are one: numbered by what they show, for each job as it knows them."""

import torch

from edif.executor.merging.identity import Identities, Ties


def test_what_shows_the_same_is_one_tensor_whatever_python_object_it_is() -> None:
    identities = Identities()
    tensor = torch.zeros(2, 3)
    again = tensor.view(2, 3)
    assert identities.of(tensor)[:2] == identities.of(again)[:2]


def test_a_view_is_another_tensor_in_the_same_memory() -> None:
    identities = Identities()
    tensor = torch.zeros(2, 3)
    whole, part = identities.of(tensor), identities.of(tensor[:1])
    assert whole.tensor != part.tensor
    assert whole.memory == part.memory
    other = identities.of(torch.zeros(2, 3))
    assert other.memory != whole.memory


def test_memory_that_was_given_back_is_gone_and_its_address_nobody_elses() -> None:
    identities = Identities()
    numbers = set()
    for _ in range(50):  # the allocator gives the same address again
        tensor = torch.zeros(1000)
        number = identities.of(tensor).tensor
        assert not identities.is_gone(number)
        numbers.add(number)
        del tensor
        assert identities.is_gone(number)
    assert len(numbers) == 50


def test_a_successor_is_the_old_tensor_to_those_who_did_not_replace_it() -> None:
    identities = Identities()
    mine, neighbours = Ties(identities), Ties(identities)
    old = torch.zeros(2, 3)
    identity = identities.of(old)
    mine.name(identity)
    neighbours.name(identity)
    new = old.clone()
    identities.succeeds(new, identity)
    mine.goes_on(identity)
    assert mine.name(identities.of(new)).tensor == identity.tensor
    assert neighbours.name(identities.of(new)).tensor == identity.successor


def test_what_is_one_for_a_job_and_two_for_the_pass_is_not_whole() -> None:
    identities = Identities()
    ties = Ties(identities)
    old = torch.zeros(2, 3)
    identity = identities.of(old)
    new = old.clone()
    identities.succeeds(new, identity)
    ties.goes_on(identity)
    assert ties.whole(identity)
    assert not ties.whole(identities.of(new))
    del old
    assert ties.whole(identities.of(new))


def test_what_the_pass_has_no_use_for_is_told_once_and_not_while_a_successor_lives() -> None:
    identities = Identities()
    ties = Ties(identities)
    old = torch.zeros(2, 3)
    identity = identities.of(old)
    ties.name(identity)
    assert identity.tensor not in ties.gone()
    new = old.clone()
    identities.succeeds(new, identity)
    ties.goes_on(identity)
    del old
    assert identity.tensor not in ties.gone()
    del new
    assert identity.tensor in ties.gone()
    assert identity.tensor not in ties.gone()


def test_what_takes_a_tensors_place_is_gone_when_the_pass_has_no_more_use_for_it() -> None:
    identities = Identities()
    ties = Ties(identities)
    old = torch.zeros(2, 3)
    identity = identities.of(old)
    ties.name(identity)
    new = old.clone()
    identities.succeeds(new, identity)
    assert identity.successor not in ties.gone()
    del new
    assert ties.gone() == [identity.successor]


def test_nothing_is_remembered_of_what_is_gone() -> None:
    """A generation comes by new tensors at each of its steps."""
    identities = Identities()
    ties = Ties(identities)
    kept = torch.zeros(5)
    number = identities.of(kept).tensor
    first = identities.of(torch.zeros(2, 3)).tensor
    for _ in range(20):
        old = torch.zeros(2, 3)
        identity = identities.of(old)
        ties.gone()
        ties.name(identity)
        new = old.clone()
        identities.succeeds(new, identity)
        ties.goes_on(identity)
        identities.forget_gone()
        tables = (ties._known_as, identities._memories, identities._tensors, identities._of_tensor)
        assert all(len(each) <= 4 for each in tables)
    assert identities.of(kept).tensor == number
    assert not identities.is_gone(number)
    assert identities.is_gone(first)
