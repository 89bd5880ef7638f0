"""The client protocol, read and written as the stock client of nnsight 0.8.1 does."""

import io
import json
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given
from nnsight.schema.response import ResponseModel

from edif.core import errors
from edif.core.errors import EdifError, ErrorCode, OverLimit, Refused
from edif.core.job import ClientStatus
from edif.wire.client_protocol import (
    ClientVersions,
    Envelope,
    StatusFrame,
    check_versions,
    encode_frame,
    encode_push,
    error_body,
    parse_envelope,
    parse_follow,
    too_old_client,
)
from tests.unit.helpers import refusal_of

TEXT = st.text(max_size=40)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ENVELOPES = st.fixed_dictionaries(
    {"model_key": TEXT},
    optional={
        "session_id": TEXT,
        "compress": st.booleans(),
        "env": st.dictionaries(TEXT, st.none() | st.integers(-9, 9) | TEXT, max_size=3),
        "a_field_of_a_later_client": JSON,
    },
)


# -- the envelope --------------------------------------------------------------------------------------
@given(ENVELOPES)
def test_envelope_is_read_as_it_was_sent(sent: dict[str, Any]) -> None:
    read = parse_envelope(json.dumps(sent))
    assert read == Envelope(
        sent["model_key"], sent.get("session_id", ""), sent.get("compress", False), sent.get("env", {})
    )
    assert parse_envelope(json.dumps(sent).encode()) == read


def test_a_trace_may_be_merged_unless_its_client_says_otherwise() -> None:
    for edif, merge in (({}, True), ({"packed": True}, True), ({"merge": False}, False)):
        assert parse_envelope(json.dumps({"model_key": "a", "edif": edif})).edif.merge is merge


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "{}",
        '{"model_key": 1}',
        '{"model_key": "a", "compress": "yes"}',
        '{"model_key": "a", "compress": 1}',
        '{"model_key": "a", "env": []}',
        '{"model_key": "a", "session_id": null}',
        '{"model_key": "a"} and more',
        '{"model_key": "\\ud800"}',
        '{"model_key": "a", "env": {"n": 1e999}}',
        '{"model_key": "a", "env": {"n": %s}}' % ("9" * 5000),
        b'{"model_key": "\xff"}',
        b"\xff\xfe",
        '{"model_key": "\ud800"}',
        '{"model_key": "a", "env": {"n": %s}}' % ("[" * 100_000 + "]" * 100_000),
        "[" * 100_000,
    ],
    ids=lambda text: repr(text[:50]),
)
def test_what_is_no_envelope_is_refused_with_the_reason(text: str | bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_envelope(text)
    assert refused.value.kind is errors.ENVELOPE_INVALID


@given(
    st.binary(max_size=200)
    | st.text(st.characters(), max_size=200)
    | JSON.map(json.dumps)
    | st.tuples(ENVELOPES.map(json.dumps), st.integers(0, 200), TEXT).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
    )
)
@example('{"model_key": "\ud8ff"}')
def test_anything_at_all_is_an_envelope_or_refused(sent: str | bytes) -> None:
    kind = refusal_of(lambda: parse_envelope(sent), error=Refused)
    assert kind in (None, errors.ENVELOPE_INVALID)


@given(st.integers(0, 100))
def test_envelope_that_broke_off_is_refused(length: int) -> None:
    whole = json.dumps({"model_key": "m:{}", "session_id": "s", "compress": True, "env": {"peft": "a"}})
    with pytest.raises(Refused):
        parse_envelope(whole[: min(length, len(whole) - 1)])


# -- frames --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", list(ClientStatus))
@given(description=TEXT, data=st.none() | TEXT, meta=st.none() | st.dictionaries(TEXT, JSON, max_size=3))
def test_stock_client_reads_every_status_frame(
    status: ClientStatus, description: str, data: str | None, meta: dict[str, Any] | None
) -> None:
    frame = StatusFrame("j1", status, description, data, meta)
    heard = ResponseModel.model_validate_json(encode_frame(frame))
    assert (heard.id, heard.status.value, heard.description) == ("j1", status.value, description)
    assert heard.data == data
    assert heard.meta == meta


def test_frame_names_all_fields_even_when_they_are_empty() -> None:
    assert json.loads(encode_frame(StatusFrame("j1", ClientStatus.QUEUED))) == {
        "id": "j1",
        "status": "QUEUED",
        "description": "",
        "data": None,
        "meta": None,
    }


# -- the push frame ------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 2**20])
@pytest.mark.parametrize("meta", [None, {"run_s": 0.5, "tokens": 7, "attempts": 1}])
def test_stock_client_reads_the_pushed_result(size: int, meta: dict[str, Any] | None) -> None:
    result = bytes(index % 251 for index in range(size))
    pushed = encode_push(StatusFrame("j1", ClientStatus.COMPLETED, "Done.", meta=meta), result)
    heard = ResponseModel.unpickle(pushed)
    assert (heard.id, heard.status.value, heard.description, heard.meta) == ("j1", "COMPLETED", "Done.", meta)
    assert heard.data == result
    assert len(pushed) < size + 2000


@given(st.binary(max_size=300), TEXT, st.dictionaries(TEXT, JSON, max_size=3))
def test_pushed_frame_is_what_torch_loads(result: bytes, description: str, meta: dict[str, Any]) -> None:
    frame = StatusFrame("j1", ClientStatus.COMPLETED, description, meta=meta)
    loaded = torch.load(io.BytesIO(encode_push(frame, result)), weights_only=False)
    assert loaded == {
        "id": "j1",
        "status": "COMPLETED",
        "description": description,
        "data": result,
        "meta": meta,
    }


def test_pushed_result_holds_what_torch_saved() -> None:
    saved = io.BytesIO()
    torch.save({"logits": torch.arange(6.0).reshape(2, 3)}, saved)
    pushed = encode_push(StatusFrame("j1", ClientStatus.COMPLETED), saved.getvalue())
    values = torch.load(io.BytesIO(ResponseModel.unpickle(pushed).data), weights_only=False)
    assert torch.equal(values["logits"], torch.arange(6.0).reshape(2, 3))


# -- errors --------------------------------------------------------------------------------------------
def test_body_of_an_error_shows_detail_and_code() -> None:
    error = OverLimit(errors.RATE_LIMITED, "Too “often”.")
    assert json.loads(error_body(error)) == {"detail": error.detail, "code": "rate_limited"}


@given(st.text(st.characters(), max_size=30))
def test_body_of_an_error_can_be_made_of_any_text(sentence: str) -> None:
    error = EdifError(errors.INTERNAL, sentence)
    assert json.loads(error_body(error))["detail"] == error.detail


# -- the version gate ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("nnsight", "python", "refusal", "notes"),
    [
        ("0.8.1", "3.11.7", None, 0),
        ("0.8.0", "3.11.7", None, 0),
        ("0.8.17.dev3+gabc", "3.11", None, 0),
        (" 0.8", "", None, 0),
        ("", "", None, 0),
        ("", "3.11.1", None, 0),
        ("0.8.1", "3.10.0", None, 1),
        ("0.8.1", "3.13.9", None, 1),
        ("0.8.1", "3.12.0rc1", None, 1),
        ("0.8.1", "snake", None, 0),
        ("newest", "3.11", None, 1),
        ("9" * 5000 + ".1", "3.11", None, 1),
        ("0.8.1", "3." + "9" * 5000, None, 0),
        ("0.7.9", "3.11", errors.CLIENT_TOO_OLD, 0),
        ("0.5.12", "3.11", errors.CLIENT_TOO_OLD, 0),
        ("0.0.1", "3.11", errors.CLIENT_TOO_OLD, 0),
        ("0.9.0", "3.11", errors.CLIENT_UNSUPPORTED, 0),
        ("0.80.0", "3.11", errors.CLIENT_UNSUPPORTED, 0),
        ("1.0", "3.11", errors.CLIENT_UNSUPPORTED, 0),
        ("0.8.1", "3.9.18", errors.PYTHON_UNSUPPORTED, 0),
        ("0.8.1", "3.14.0", errors.PYTHON_UNSUPPORTED, 0),
        ("0.8.1", "2.7.18", errors.PYTHON_UNSUPPORTED, 0),
        ("0.8.1", "4.0", errors.PYTHON_UNSUPPORTED, 0),
        ("0.7.9", "3.9", errors.CLIENT_TOO_OLD, 0),
    ],
    ids=lambda value: str(value)[:12],
)
def test_version_gate(nnsight: str, python: str, refusal: ErrorCode | None, notes: int) -> None:
    client = ClientVersions(nnsight, python)
    if refusal is None:
        assert len(check_versions(client, serving_python="3.11.9")) == notes
        return
    with pytest.raises(Refused) as refused:
        check_versions(client, serving_python="3.11.9")
    assert refused.value.kind is refusal
    assert len(refused.value.sentence) < 300


def test_note_on_another_python_names_both() -> None:
    (note,) = check_versions(ClientVersions("0.8.1", "3.12.1"), serving_python="3.11.9")
    assert "3.12" in note
    assert "3.11" in note


def test_no_note_while_no_worker_has_said_its_python() -> None:
    assert check_versions(ClientVersions("0.8.1", "3.12.1"), serving_python="") == []


@given(st.text(st.characters(), max_size=60), st.text(st.characters(), max_size=60), TEXT)
def test_headers_of_any_text_pass_or_are_refused(nnsight: str, python: str, serving: str) -> None:
    try:
        notes = check_versions(ClientVersions(nnsight, python), serving)
    except Refused:
        return
    assert all(isinstance(note, str) for note in notes)


@pytest.mark.parametrize(("version", "named"), [("0.6.3", "nnsight 0.6.3"), ("", "older than 0.8")])
def test_refusal_of_the_old_generation_names_what_is_used(version: str, named: str) -> None:
    refused = too_old_client(version)
    assert named in refused.sentence
    assert refused.kind is errors.CLIENT_TOO_OLD


def test_jobs_to_follow_are_read() -> None:
    assert parse_follow('{"follow": ["one", "two"]}') == ["one", "two"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "[" * 100_000,
        '{"follow": "one"}',
        '{"follow": [1]}',
        '{"follow": ["\ud800"]}',
        json.dumps({"follow": ["x" * 101]}),
        json.dumps({"follow": ["x"] * 101}),
    ],
    ids=lambda text: text[:20],
)
def test_whatever_else_is_said_on_the_status_socket_follows_nothing(text: str) -> None:
    assert parse_follow(text) == []
