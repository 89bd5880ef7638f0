"""Names of things."""

import re
from collections.abc import Callable

import pytest

from edif.core import ids


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (ids.new_job_id, r"j[0-9a-f]{24}"),
        (ids.new_session_id, r"s[0-9a-f]{32}"),
        (ids.new_replica_id, r"r[0-9a-f]{12}"),
        (ids.new_agent_id, r"a[0-9a-f]{12}"),
        (ids.new_user_id, r"u[0-9a-f]{12}"),
    ],
)
def test_ids_are_plain_words_that_do_not_repeat(make: Callable[[], str], form: str) -> None:
    made = [make() for _ in range(200)]
    assert all(re.fullmatch(form, text) for text in made)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("make", [ids.new_job_id, ids.new_session_id])
def test_ids_that_open_something_carry_at_least_96_random_bits(make: Callable[[], str]) -> None:
    assert (len(make()) - 1) * 4 >= 96
