"""API keys: what is handed out, and what is kept."""

import re
from dataclasses import asdict

import hypothesis.strategies as st
from hypothesis import given

from edif.records.keys import digest, mint
from tests.unit.records.factories import ADA


def test_key_is_recognised_by_what_is_kept_of_it_and_nothing_more_is_kept() -> None:
    secret, key = mint(ADA, now=100.0, valid_s=50.0)
    assert re.fullmatch(r"edif_[0-9a-f]{8}_[\w-]{43}", secret)
    assert digest(secret) == key.digest
    assert secret.split("_")[1] == key.id
    assert (key.user, key.created_at, key.expires_at, key.revoked_at) == (ADA, 100.0, 150.0, None)
    random_part = secret.split("_", 2)[2]
    assert not any(random_part in str(value) for value in asdict(key).values())


def test_key_without_term_does_not_expire() -> None:
    assert mint(ADA, now=100.0, valid_s=None)[1].expires_at is None


def test_keys_do_not_repeat() -> None:
    minted = [mint(ADA, 0.0, None) for _ in range(100)]
    assert len({secret for secret, _ in minted}) == len({key.digest for _, key in minted}) == 100


@given(st.text(max_size=50), st.text(max_size=50))
def test_digests_tell_secrets_apart(one: str, other: str) -> None:
    assert (digest(one) == digest(other)) is (one == other)
    assert re.fullmatch(r"[0-9a-f]{64}", digest(one))
