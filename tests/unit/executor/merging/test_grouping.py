"""Which requests run together, with padding and without, and the one request that they make."""

from typing import Any

import pytest
import torch

from edif.executor.merging.grouping import chosen
from edif.executor.merging.leaves import Share
from edif.executor.merging.request import Request, joined, shares


def wants(tokens: int, rows: int = 1, first: int = 5, **options: Any) -> Request:
    ids = first + torch.arange(rows * tokens).view(rows, tokens)
    return Request(bool(options), ids, options=tuple(sorted(options.items())))


def together(*requests: Request, rows: int = 16, tokens: int = 4096, padded: bool = True) -> list[int]:
    def bucket(request: Request) -> Any:
        return request.bucket if padded else None

    return chosen([*enumerate(requests)], rows, tokens, bucket)


def test_those_of_one_length_come_first() -> None:
    assert together(wants(5), wants(6), wants(5), wants(7), wants(5), rows=3) == [0, 2, 4]
    assert together(wants(5), wants(6), wants(5), wants(7), wants(5), rows=4) == [0, 1, 2, 4]
    assert together(wants(5), wants(6), wants(5), wants(7), wants(5)) == [0, 1, 2, 3, 4]


def test_without_padding_only_those_of_one_length() -> None:
    assert together(wants(5), wants(6), wants(5), padded=False) == [0, 2]


def test_padding_is_less_than_as_much_again() -> None:
    for one in range(1, 100):
        others = [each for each in range(1, 200) if each != one]
        found = together(wants(one), *(wants(each) for each in others), tokens=10**6, rows=500)
        alike = [one, *(others[each - 1] for each in found[1:])]
        assert max(alike) < 2 * min(alike)
        assert len(alike) == min(alike), "and nobody is left out who could be there"


def test_padding_counts_as_tokens() -> None:
    assert together(wants(4), wants(7), wants(4), tokens=20) == [0, 2]
    assert together(wants(4), wants(7), wants(4), tokens=21) == [0, 1, 2]
    assert together(wants(7), wants(4), wants(4), tokens=14) == [0, 1]
    assert together(wants(100), wants(90), tokens=50) == [0], "the first runs, however many it has"
    generation = {"max_new_tokens": 10}
    assert together(wants(4, **generation), wants(7, **generation), tokens=33) == [0]
    assert together(wants(4, **generation), wants(7, **generation), tokens=34) == [0, 1]


ONES = torch.ones(1, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    "request_",
    [
        wants(5, max_new_tokens=3, repetition_penalty=1.3),
        wants(5, min_new_tokens=3),
        Request(False, ONES, mask=ONES),
        Request(False, ONES, positions=ONES),
    ],
    ids=["what looks back", "as many as the model likes", "a mask", "positions"],
)
def test_what_has_no_bucket(request_: Request) -> None:
    assert request_.bucket is None
    assert together(request_, wants(5)) == [0]


def test_options_that_differ_are_not_mixed() -> None:
    given = wants(5, max_new_tokens=3), wants(6, max_new_tokens=4), wants(6), wants(7, max_new_tokens=3)
    assert together(*given) == [0, 3]


def test_requests_of_one_length_are_joined_as_they_are() -> None:
    one, other = wants(4, rows=2), wants(4, first=60)
    whole = joined([one, other])
    assert torch.equal(whole.ids, torch.cat([one.ids, other.ids]))
    assert (whole.mask, whole.positions) == (None, None)
    assert shares([one, other]) == [Share(0, 2, 3), Share(2, 1, 3)]


def test_of_several_lengths_the_shorter_are_padded_on_the_left() -> None:
    one, other = wants(2, rows=2, max_new_tokens=3), wants(4, first=60, max_new_tokens=3)
    whole = joined([one, other])
    assert whole.ids.tolist() == [[0, 0, 5, 6], [0, 0, 7, 8], [60, 61, 62, 63]]
    assert whole.inputs()["attention_mask"].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]]
    assert whole.inputs()["position_ids"].tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 2, 3]]
    assert (whole.generates, whole.options) == (True, one.options)
    assert shares([one, other]) == [Share(0, 2, 3, padding=2), Share(2, 1, 3, padding=0)]
