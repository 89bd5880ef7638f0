"""``edif replay`` on a log that is sound, on one that is not, and on none."""

from pathlib import Path

import pytest

from edif.core import errors
from edif.core.errors import EdifError
from edif.core.ids import JobId, ModelId
from edif.scheduler import events as ev
from edif.scheduler.journal import Header, encode_header, encode_step
from tests.unit.cli.conftest import Edif

ONE = ModelId("m/one")
QUEUED = ev.JobQueued(JobId("j1"), ONE)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("EDIF_DECISION_LOG", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "decisions"
    told = [ev.TellWaiting(JobId("j1"), 1, loading=True)]
    path.write_bytes(encode_header(Header((ONE,), "r")) + encode_step(1.0, QUEUED, told))
    return path


def test_log_that_decides_the_same(edif: Edif, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert edif("replay", str(log)) == {"parts": 1, "steps": 1}
    assert "decides the same: 1 event(s)" in edif.printed("replay", str(log))  # type: ignore[attr-defined]
    monkeypatch.setenv("EDIF_DECISION_LOG", str(log))
    assert edif("replay") == {"parts": 1, "steps": 1}


def test_log_that_decides_otherwise_ends_with_where_it_differs(edif: Edif, log: Path) -> None:
    log.write_bytes(log.read_bytes() + encode_step(2.0, ev.CancelAsked(JobId("j1")), []))
    with pytest.raises(EdifError, match=r"Line 3, after CancelAsked.*\[decisions_differ\]"):
        edif("replay", str(log))


def test_file_that_is_no_log_or_not_there_or_not_named_is_refused(edif: Edif, log: Path) -> None:
    log.write_bytes(b"hello")
    for words in ((str(log),), (str(log.with_name("nowhere")),), ()):
        with pytest.raises(EdifError) as refused:
            edif("replay", *words)
        assert refused.value.kind is errors.JOURNAL_UNREADABLE
