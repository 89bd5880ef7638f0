"""Which gateway a command asks, and what it shows of the answer."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from edif.cli.api import connect
from edif.cli.main import app
from edif.cli.output import show_table
from edif.core import errors
from edif.core.errors import EdifError, SetupError
from edif.settings import ClientVariables, Settings, load
from tests.unit.cli.conftest import Edif

NOBODY = ClientVariables(None, None)
NO_ONE_THERE = "http://127.0.0.1:9"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("EDIF_URL", "EDIF_API_KEY", "NDIF_HOST", "NDIF_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return load(None)


def test_who_is_on_no_fabrics_machine_is_told_every_way_to_name_one(settings: Settings) -> None:
    with pytest.raises(SetupError) as refused:
        connect(settings, None, NOBODY)
    assert refused.value.kind is errors.GATEWAY_UNREACHABLE
    assert all(way in refused.value.next_step for way in ("edif serve", "--data", "--url"))


def test_a_named_url_counts_before_the_variables(settings: Settings) -> None:
    assert connect(settings, "http://a/", ClientVariables("http://b", None)).url == "http://a"
    assert connect(settings, None, ClientVariables("http://b/", None)).url == "http://b"


@pytest.mark.parametrize("url", ["127.0.0.1:8289", "lab.example.org"])
def test_an_address_without_its_scheme_is_told(url: str, settings: Settings) -> None:
    with pytest.raises(SetupError, match="no URL") as refused:
        connect(settings, url, NOBODY)
    assert "http://" in refused.value.next_step


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("jobs", "list"), True),
        (("jobs", "cancel", "j1"), True),
        (("status",), True),
        (("models", "list"), True),
        (("jobs", "list", "--data", "."), False),
        (("drain",), False),
        (("resume",), False),
        (("models", "evict", "org/name"), False),
    ],
)
def test_variables_of_clients_are_for_asking_not_for_steering(words: tuple[str, ...], asked: bool) -> None:
    done = CliRunner().invoke(app, words, env={"NDIF_HOST": NO_ONE_THERE})
    assert isinstance(done.exception, EdifError)
    assert (f"No gateway answers at {NO_ONE_THERE}" in done.exception.sentence) is asked
    assert ("No gateway runs on the data folder" in done.exception.sentence) is not asked


def test_a_table_that_no_person_looks_at_has_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("id", "what"), [("j" * 25, "word " * 60)], "")
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("measure", "amount", "shown"),
    [
        ("stored_bytes", "50GiB", "53,687,091,200"),
        ("running_jobs", "4", "4"),
        ("seconds_per_day", "1.5s", "1.5"),
    ],
)
def test_amounts_are_shown_with_all_their_digits(edif: Edif, measure: str, amount: str, shown: str) -> None:
    assert edif.printed("quota", "set", measure, amount, "--each-user") == f"each user: {measure} {shown}.\n"  # type: ignore[attr-defined]
    assert edif.printed("quota", "list").split()[-1] == shown  # type: ignore[attr-defined]


def test_a_folder_without_records_is_named_once(tmp_path: Path) -> None:
    """A command that was begun in another folder than the fabric would make users whom nobody knows."""
    words = ["users", "list", "--json", "--data", str(tmp_path / "data")]
    first, second = (CliRunner().invoke(app, words) for _ in range(2))
    assert str(tmp_path / "data") in first.stderr
    assert "--data DIR" in first.stderr
    assert (first.stdout, second.stdout, second.stderr) == ("[]\n", "[]\n", "")


def test_doctor_names_a_variable_that_is_no_setting(edif: Edif, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDIF_ISOLATON", "sealed")
    found = {each["what"]: each for each in edif("doctor")}
    assert found["variable: EDIF_ISOLATON"]["state"] == "warning"
    assert found["variable: EDIF_ISOLATON"]["advice"] == "Did you mean EDIF_ISOLATION?"
