"""Signed links open one blob, for one purpose, until a time, and nothing else."""

from urllib.parse import parse_qs, urlsplit

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

from edif.blobs.links import PREFIX, LinkSigner
from edif.core import errors
from edif.core.errors import AuthRefused
from tests.unit.helpers import refusal_of

SIGNER = LinkSigner(b"a key that nobody knows")
NOW = 1_800_000_000.0
NAMES = st.builds(
    "{}/{}".format, st.sampled_from(["payload", "result"]), st.from_regex(r"j[0-9a-f]{1,24}", fullmatch=True)
)
PURPOSES = st.sampled_from(["get", "put"])
LIFETIMES = st.floats(0, 10_000_000)


def parts(path: str) -> tuple[str, str, str, str]:
    """Purpose, name, expires and signature as the gateway's route takes them out of a link."""
    url = urlsplit(path)
    assert url.path.startswith(f"{PREFIX}/")
    query = parse_qs(url.query, strict_parsing=True)
    assert set(query) == {"purpose", "expires", "signature"}
    return (
        query["purpose"][0],
        url.path.removeprefix(f"{PREFIX}/"),
        query["expires"][0],
        query["signature"][0],
    )


def refused(purpose: str, name: str, expires: str, signature: str, now: float = NOW) -> bool:
    kind = refusal_of(lambda: SIGNER.check(purpose, name, expires, signature, now), error=AuthRefused)
    assert kind in (None, errors.LINK_INVALID)
    return kind is not None


@given(PURPOSES, NAMES, LIFETIMES)
def test_signed_link_opens_until_its_time_and_not_after(purpose: str, name: str, lifetime: float) -> None:
    signed = parts(SIGNER.path(purpose, name, NOW + lifetime))
    assert signed[:2] == (purpose, name)
    expires = int(NOW + lifetime)
    assert not refused(*signed, now=NOW)
    assert not refused(*signed, now=float(expires))
    assert refused(*signed, now=expires + 0.001)
    assert refused(*signed, now=expires + 1e9)


@given(PURPOSES, NAMES, LIFETIMES, PURPOSES | st.text(max_size=5))
def test_link_for_another_purpose_is_refused(purpose: str, name: str, lifetime: float, other: str) -> None:
    assume(other != purpose)
    _, name, expires, signature = parts(SIGNER.path(purpose, name, NOW + lifetime))
    assert refused(other, name, expires, signature)


@given(PURPOSES, NAMES, LIFETIMES, NAMES | st.text(max_size=9))
def test_link_to_another_blob_is_refused(purpose: str, name: str, lifetime: float, other: str) -> None:
    assume(other != name)
    purpose, _, expires, signature = parts(SIGNER.path(purpose, name, NOW + lifetime))
    assert refused(purpose, other, expires, signature)


@given(PURPOSES, NAMES, LIFETIMES, st.integers(0, 10**12).map(str) | st.text(max_size=14))
def test_link_with_another_time_is_refused(purpose: str, name: str, lifetime: float, other: str) -> None:
    purpose, name, expires, signature = parts(SIGNER.path(purpose, name, NOW + lifetime))
    assume(other != expires)
    assert refused(purpose, name, other, signature)


@given(PURPOSES, NAMES, LIFETIMES, st.integers(1, 10**10))
def test_link_whose_time_was_put_off_is_refused(
    purpose: str, name: str, lifetime: float, longer: int
) -> None:
    purpose, name, expires, signature = parts(SIGNER.path(purpose, name, NOW + lifetime))
    assert refused(purpose, name, str(int(expires) + longer), signature)


@pytest.mark.parametrize(
    "written",
    ["0{}", " {}", "{} ", "+{}", "{}.0", "1_800_000_500", "{}\n"],
)
def test_time_that_is_written_otherwise_is_refused(written: str) -> None:
    purpose, name, expires, signature = parts(SIGNER.path("get", "result/j1", NOW + 500))
    assert refused(purpose, name, written.format(expires), signature)


def test_time_in_digits_of_another_script_is_refused() -> None:
    purpose, name, expires, signature = parts(SIGNER.path("get", "result/j1", NOW + 500))
    arabic = "".join(chr(0x660 + int(digit)) for digit in expires)
    assert int(arabic) == int(expires)
    assert refused(purpose, name, arabic, signature)


@given(NAMES, st.integers(0, 63), st.sampled_from("0123456789abcdef"))
def test_link_with_one_changed_digit_of_the_signature_is_refused(name: str, at: int, digit: str) -> None:
    purpose, name, expires, signature = parts(SIGNER.path("get", name, NOW + 500))
    assume(signature[at] != digit)
    assert refused(purpose, name, expires, signature[:at] + digit + signature[at + 1 :])


@given(st.text(max_size=70))
def test_made_up_signature_is_refused(signature: str) -> None:
    assert refused("get", "result/j1", str(int(NOW) + 500), signature)


def test_shortened_extended_and_capitalised_signatures_are_refused() -> None:
    purpose, name, expires, signature = parts(SIGNER.path("get", "result/j1", NOW + 500))
    for other in (signature[:-1], signature + "0", signature.upper(), ""):
        assert refused(purpose, name, expires, other)


@given(st.binary(max_size=40))
def test_link_signed_with_another_key_is_refused(key: bytes) -> None:
    assume(key.rstrip(b"\0") != SIGNER.key)  # HMAC pads its key with zeros
    assert refused(*parts(LinkSigner(key).path("get", "result/j1", NOW + 500)))
