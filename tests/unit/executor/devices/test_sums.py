"""Sums over memory that others may change."""

import pytest
import torch

from edif.executor.devices.sums import ROW_BYTES, Sums

SIZES = [8, ROW_BYTES - 8, ROW_BYTES, 2 * ROW_BYTES + 1024]


@pytest.fixture(params=SIZES, ids=lambda size: f"{size} bytes")
def whole(request: pytest.FixtureRequest) -> torch.Tensor:
    return torch.randint(0, 256, (request.param,), dtype=torch.uint8, generator=torch.manual_seed(3))


def test_what_is_as_it_was_has_not_changed(whole: torch.Tensor) -> None:
    sums = Sums(whole)
    assert sums.changed() == []
    whole[0] += 1
    whole[0] -= 1
    assert sums.changed() == []


def test_one_bit_anywhere_is_noticed_and_in_its_row(whole: torch.Tensor) -> None:
    sums = Sums(whole)
    for place in {0, 7, len(whole) // 2, len(whole) - 1}:
        for bit in (1, 128):
            whole[place] ^= bit
            assert sums.changed() == [place // ROW_BYTES]
            whole[place] ^= bit


def test_words_that_change_places_are_noticed() -> None:
    whole = torch.zeros(ROW_BYTES, dtype=torch.uint8)
    words = whole.view(torch.int64)
    words[0] = 1
    sums = Sums(whole)
    words[0], words[1] = 0, 1
    assert sums.changed() == [0], "the plain sum is the same"


def test_each_process_draws_its_own_factors(whole: torch.Tensor) -> None:
    assert not torch.equal(Sums(whole)._factors, Sums(whole)._factors)
