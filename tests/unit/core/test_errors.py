"""The catalogue of errors, and its page in the documentation."""

import json
import re
from http import HTTPStatus
from pathlib import Path

import pytest

from edif.core import errors
from edif.core.errors import EdifError, ErrorCode, JobFailed, Refused, SetupError, StoreUnavailable
from tests.unit.docs import plain, rows

KINDS = list(errors.catalogue().values())
SOURCE = Path(errors.__file__).read_text()


def test_every_code_in_the_source_is_in_the_catalogue_once() -> None:
    written = re.findall(r"_kind\(\s*\"(\w+)\"", SOURCE)
    assert len(written) == len(set(written)), "a code is used twice"
    assert written == list(errors.catalogue())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_every_kind_is_well_formed(kind: ErrorCode) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert HTTPStatus(kind.http_status).value == kind.http_status
    assert kind.http_status == 200 or kind.http_status >= 400
    name = kind.code.upper()
    assert getattr(errors, name) is kind, "the constant has another name than its code"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_every_kind_has_a_next_step_except_the_users_own_code(kind: ErrorCode) -> None:
    if kind is errors.USER_CODE:
        assert kind.next_step == ""
    else:
        assert len(kind.next_step) > 10
        assert "|" not in kind.next_step, "would break the table in docs/errors.md"


def test_catalogue_cannot_be_changed_by_its_reader() -> None:
    errors.catalogue().clear()
    assert len(errors.catalogue()) == len(KINDS)


def test_detail_says_what_happened_what_to_do_and_the_code() -> None:
    error = EdifError(errors.TIME_LIMIT, "It took too long.")
    assert error.detail == f"It took too long. {errors.TIME_LIMIT.next_step} [time_limit]"
    assert str(error) == error.detail
    assert error.code == "time_limit"


def test_more_exact_next_step_replaces_the_default() -> None:
    error = EdifError(errors.TIME_LIMIT, "It took too long.", "Sleep less.")
    assert error.detail == "It took too long. Sleep less. [time_limit]"


def test_detail_without_a_next_step_has_no_gap() -> None:
    assert EdifError(errors.USER_CODE, "Boom.").detail == "Boom. [user_code]"
    assert EdifError(errors.TIME_LIMIT, "Late.", "").detail == "Late. [time_limit]"


def test_detail_leaves_the_sentence_as_it_is() -> None:
    """A traceback or a file name keeps its spaces."""
    sentence = 'File "a  b.py", line 1\n    x = 1\n      ^'
    assert EdifError(errors.USER_CODE, sentence).detail.startswith(sentence)


@pytest.mark.parametrize("kind", [Refused, JobFailed, StoreUnavailable, SetupError])
def test_everything_a_person_meets_is_an_edif_error(kind: type[EdifError]) -> None:
    assert issubclass(kind, EdifError)


def test_page_lists_exactly_the_catalogue_in_its_order() -> None:
    assert [plain(row[0]) for row in rows("errors.md")] == list(errors.catalogue())


def test_page_tells_the_status_and_next_step_of_each_code() -> None:
    for code, status, meaning, next_step in rows("errors.md"):
        kind = errors.catalogue()[plain(code)]
        assert status == str(kind.http_status), kind.code
        assert next_step == (kind.next_step or "Read the traceback."), kind.code
        assert meaning.endswith("."), f"{kind.code} has no meaning"


def test_every_code_is_raised_somewhere_or_said_to_be_reserved() -> None:
    root = Path(errors.__file__).parents[1]
    sources = [path.read_text() for path in root.rglob("*.py") if path != Path(errors.__file__)]
    unused = {
        kind.code
        for kind in KINDS
        if not any(re.search(rf"\b{kind.code.upper()}\b", source) for source in sources)
    }
    assert unused <= {"not_accepting"}


def test_an_answer_of_a_gateway_is_read_as_the_error_it_holds() -> None:
    sent = errors.EdifError(errors.JOB_UNKNOWN, "There is no such job.")
    read = errors.read(
        json.dumps({"detail": sent.detail, "code": sent.code}).encode(), "Somebody else answered."
    )
    assert read.kind is errors.JOB_UNKNOWN
    assert "There is no such job." in read.sentence


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'"text"', b"{}", b'{"code": []}', b"\xff", b'{"code": "x"}']
)
def test_any_other_answer_is_read_as_what_the_caller_says(body: bytes) -> None:
    read = errors.read(body, "Somebody else answered.")
    assert (read.kind, read.sentence) == (errors.INTERNAL, "Somebody else answered.")
