"""When a key counts, and who is an operator."""

import pytest

from edif.core.ids import UserName
from edif.core.users import ApiKey, Identity, Role


@pytest.mark.parametrize(
    ("expires_at", "revoked_at", "usable"),
    [
        (None, None, True),
        (100.5, None, True),
        (100.0, None, False),
        (99.0, None, False),
        (None, 1.0, False),
        (200.0, 1.0, False),
        (None, 200.0, False),
    ],
)
def test_key_counts_until_it_expires_or_is_revoked(
    expires_at: float | None, revoked_at: float | None, usable: bool
) -> None:
    key = ApiKey("k", UserName("ada"), "d", 0.0, expires_at, revoked_at)
    assert key.usable(100.0) is usable


def test_only_the_operators_role_makes_an_operator() -> None:
    operators = {role for role in Role if Identity(UserName("ada"), role).operator}
    assert operators == {Role.OPERATOR}
