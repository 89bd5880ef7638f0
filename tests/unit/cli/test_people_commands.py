"""``edif users``, ``groups``, ``quota``, ``usage`` and ``audit`` on a data folder without a gateway."""

import asyncio
import csv
import io
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edif.cli.main import app
from edif.core import errors
from edif.core.audit import GENESIS
from edif.core.errors import EdifError, ErrorCode
from edif.core.job import AttemptOutcome, JobState
from edif.records.migrate import open_store
from edif.records.sql_store import SqlRecordStore
from edif.records.sqlite import DATABASE_NAME
from edif.records.store import RecordStore
from tests.unit.cli.conftest import Edif
from tests.unit.records.factories import a_job, an_attempt, an_ending


def refused(edif: Edif, *words: str) -> ErrorCode:
    with pytest.raises(EdifError) as error:
        edif(*words)
    assert error.value.next_step, "an error has a next step"
    return error.value.kind


def on_store(data: Path, work: Callable[[RecordStore], Awaitable[object]]) -> None:
    async def main() -> None:
        store = await open_store(data)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(main())


def used(data: Path, *jobs: tuple[str, str, float]) -> None:
    """Jobs that ended, each as (owner, day, accelerator seconds)."""

    async def work(store: RecordStore) -> None:
        for owner, day, seconds in jobs:
            job = a_job(owner=owner)
            await store.add_job(job)
            await store.begin_attempt(an_attempt(job.id))
            now = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
            ending = an_ending(JobState.COMPLETED, seconds=seconds, tokens=3, result_bytes=5)
            await store.end_job(job.id, ending, now=now, attempt=1, outcome=AttemptOutcome.COMPLETED)

    on_store(data, work)


# -- users and groups ----------------------------------------------------------------------------------
def test_people_are_put_into_groups_and_classes(edif: Edif) -> None:
    edif("groups", "add", "lab", "--weight", "3")
    edif("users", "add", "ada", "--group", "lab", "--weight", "2", "--priority", "high")
    edif("users", "add", "bob")
    edif("users", "change", "bob", "--group", "lab", "--role", "operator")
    edif("groups", "change", "lab", "--priority", "low")
    (group,) = edif("groups", "list")
    assert (group["weight"], group["priority"], group["members"]) == (3.0, "low", ["ada", "bob"])
    ada, bob = edif("users", "list")
    assert (ada["group"], ada["weight"], ada["priority"]) == ("lab", 2.0, "high")
    assert (bob["group"], bob["role"], bob["weight"], bob["priority"]) == ("lab", "operator", 1.0, None)


def test_who_adds_a_group_again_is_told_what_was_used_under_its_name(edif: Edif, data: Path) -> None:
    """Reports and quotas are by name: both say the same, before and after."""
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert edif("groups", "add", "lab")["seconds_this_month"] == 0
    edif("users", "add", "ada", "--group", "lab")
    used(data, ("ada", today, 90.0), ("ada", "2001-01-01", 7.0))
    edif("groups", "remove", "lab")
    assert edif("groups", "add", "lab")["seconds_this_month"] == 90.0
    edif("groups", "remove", "lab")
    told = edif.printed("groups", "add", "lab")  # type: ignore[attr-defined]
    assert "used 90 s this month" in told
    assert "this month" not in edif.printed("groups", "add", "course")  # type: ignore[attr-defined]


def test_a_change_touches_only_what_is_named_and_can_take_back(edif: Edif) -> None:
    edif("groups", "add", "lab")
    edif("users", "add", "ada", "--group", "lab", "--priority", "high", "--email", "ada@example.org")
    edif("users", "change", "ada", "--weight", "5")
    (ada,) = edif("users", "list")
    assert (ada["group"], ada["priority"], ada["email"], ada["weight"]) == (
        "lab",
        "high",
        "ada@example.org",
        5.0,
    )
    edif("users", "change", "ada", "--group", "", "--priority", "")
    (ada,) = edif("users", "list")
    assert (ada["group"], ada["priority"]) == (None, None)


def test_a_group_that_is_removed_leaves_its_people(edif: Edif) -> None:
    edif("groups", "add", "lab")
    edif("users", "add", "ada", "--group", "lab")
    edif("groups", "remove", "lab")
    assert edif("groups", "list") == []
    assert [user["group"] for user in edif("users", "list")] == [None]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("users add eve --group nowhere", errors.GROUP_UNKNOWN),
        ("users change nobody --weight 2", errors.USER_UNKNOWN),
        ("users change ada --priority urgent", errors.REQUEST_INVALID),
        ("users change ada --group nowhere", errors.GROUP_UNKNOWN),
        ("groups add lab", errors.GROUP_EXISTS),
        ("groups change nowhere --weight 2", errors.GROUP_UNKNOWN),
        ("groups remove nowhere", errors.GROUP_UNKNOWN),
        ("quota set queued_jobs 5", errors.REQUEST_INVALID),
        ("quota set queued_jobs 5 --each-user --user ada", errors.REQUEST_INVALID),
        ("quota set queued_jobs 5 --user nobody", errors.USER_UNKNOWN),
        ("quota set queued_jobs 5 --group nowhere", errors.GROUP_UNKNOWN),
        ("quota set queued_jobs 5h --each-user", errors.REQUEST_INVALID),
        ("quota set seconds_per_day soon --each-user", errors.REQUEST_INVALID),
        ("quota set stored_bytes plenty --each-user", errors.REQUEST_INVALID),
        ("usage --since yesterday", errors.REQUEST_INVALID),
        ("usage --since 2026-13", errors.REQUEST_INVALID),
        ("audit verify --expect nonsense", errors.REQUEST_INVALID),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(edif: Edif, words: str, kind: ErrorCode) -> None:
    edif("groups", "add", "lab")
    edif("users", "add", "ada")
    before = edif("audit", "list")
    assert refused(edif, *words.split()) is kind
    assert edif("audit", "list") == before


# -- quotas --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("measure", "text", "amount"),
    [
        ("queued_jobs", "20", 20),
        ("seconds_per_day", "90m", 5400),
        ("seconds_per_month", "1.5 h", 5400),
        ("seconds_per_month", "2d", 172_800),
        ("stored_bytes", "10GiB", 10 * 2**30),
        ("result_bytes_per_day", "500", 500),
        ("running_jobs", "0", 0),
    ],
)
def test_amounts_are_written_as_people_write_them(edif: Edif, measure: str, text: str, amount: float) -> None:
    edif("quota", "set", measure, text, "--each-user")
    assert edif("quota", "list") == [{"scope": "each_user", "name": "", "measure": measure, "amount": amount}]


def test_quotas_are_listed_and_taken_away(edif: Edif) -> None:
    edif("users", "add", "ada")
    edif("groups", "add", "lab")
    for whose in (("--user", "ada"), ("--group", "lab"), ("--each-user",)):
        edif("quota", "set", "queued_jobs", "5", *whose)
    edif("quota", "set", "queued_jobs", "7", "--user", "ada")
    assert {(each["scope"], each["amount"]) for each in edif("quota", "list")} == {
        ("user", 7),
        ("group", 5),
        ("each_user", 5),
    }
    edif("quota", "unset", "queued_jobs", "--user", "ada")
    assert {each["scope"] for each in edif("quota", "list")} == {"group", "each_user"}


@pytest.mark.parametrize(
    ("measure", "text"),
    [
        ("queued_jobs", "0.5"),
        ("running_jobs", "9" * 400),
        ("seconds_per_day", "9" * 306 + "d"),
        ("stored_bytes", "9" * 400),
        ("stored_bytes", "inf"),
    ],
)
def test_amounts_that_nothing_can_reach_or_count_are_refused(edif: Edif, measure: str, text: str) -> None:
    assert refused(edif, "quota", "set", measure, text, "--each-user") is errors.REQUEST_INVALID
    assert edif("quota", "list") == []


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "1e308"])
@pytest.mark.parametrize("noun", ["users", "groups"])
def test_weights_are_numbers_that_shares_can_be_divided_by(data: Path, noun: str, weight: str) -> None:
    words = [noun, "add", "lab", f"--weight={weight}", "--data", str(data)]
    assert CliRunner().invoke(app, words).exit_code == 2


@pytest.mark.parametrize("name", ["operator", "local", "erased-u123", "a b", "a:b", "", "a" * 101, "ada\n"])
def test_names_that_mean_something_else_or_cannot_be_told_apart_are_refused(edif: Edif, name: str) -> None:
    assert refused(edif, "users", "add", name) is errors.REQUEST_INVALID


@pytest.mark.parametrize("name", ["[red]", "a b", "a:b", "", "a" * 101, "lab\n"])
def test_groups_are_named_as_people_are(edif: Edif, name: str) -> None:
    assert refused(edif, "groups", "add", name) is errors.REQUEST_INVALID


def test_tables_show_what_was_written(edif: Edif) -> None:
    edif("users", "add", "ada", "--email", "[red]ada@example.org")
    assert "[red]ada" in edif.printed("users", "list")  # type: ignore[attr-defined]


# -- privacy -------------------------------------------------------------------------------------------
def test_a_name_is_free_again_when_its_person_is_erased(edif: Edif, data: Path) -> None:
    edif("users", "add", "ada")
    used(data, ("ada", "2026-11-01", 1.0))
    edif("users", "remove", "ada")
    assert refused(edif, "users", "add", "ada") is errors.USER_EXISTS
    edif("users", "add", "ada", "--returning")
    assert len(edif("users", "export", "ada")["jobs"]) == 1
    edif("users", "erase", "ada", "--yes")
    edif("users", "add", "ada")
    export = edif("users", "export", "ada")
    assert (export["jobs"], export["usage"], export["keys"], export["quotas"]) == ([], [], [], [])


def test_an_export_has_quotas_tries_and_acts(edif: Edif, data: Path) -> None:
    edif("users", "add", "ada", "--email", "ada@example.org")
    edif("quota", "set", "queued_jobs", "5", "--user", "ada")
    used(data, ("ada", "2026-11-01", 1.0))
    export = edif("users", "export", "ada")
    assert [each["amount"] for each in export["quotas"]] == [5]
    assert [each["number"] for each in export["jobs"][0]["tries"]] == [1]
    assert [each["entry"]["action"] for each in export["audit"]] == ["user.added", "quota.set"]


@pytest.mark.parametrize("left", ["usage", "a key"])
def test_whoever_was_removed_can_be_erased_when_the_jobs_are_forgotten(
    edif: Edif, data: Path, left: str
) -> None:
    edif("users", "add", "ada")
    if left == "a key":
        edif("keys", "create", "--user", "ada")
    else:
        used(data, ("ada", "2026-11-01", 1.0))
        changed(data, "DELETE FROM attempts")
        changed(data, "DELETE FROM jobs")
    edif("users", "remove", "ada")
    pseudonym = edif("users", "erase", "ada", "--yes")["pseudonym"]
    assert [row["user"] for row in edif("usage", "--by", "user")] == ([pseudonym] if left == "usage" else [])
    assert refused(edif, "users", "export", "ada") is errors.USER_UNKNOWN


def test_no_table_has_the_name_of_who_was_erased(edif: Edif, data: Path) -> None:
    edif("groups", "add", "lab")
    edif("users", "add", "adalovelace", "--email", "a@adalovelace.org", "--group", "lab")
    edif("keys", "create", "--user", "adalovelace")
    edif("quota", "set", "queued_jobs", "5", "--user", "adalovelace")
    used(data, ("adalovelace", "2026-11-01", 1.0))
    edif("users", "erase", "adalovelace", "--yes")
    with sqlite3.connect(data / DATABASE_NAME) as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert "adalovelace" not in dump


# -- backups -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["backup", "restore"])
def test_an_old_store_in_the_folder_is_no_backup_of_records_in_postgresql(
    edif: Edif, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    edif("users", "add", "ada")
    edif("backup", str(tmp_path / "b1"))
    monkeypatch.setenv("EDIF_RECORD_STORE", "postgresql://somewhere/edif")
    kind = refused(edif, command, str(tmp_path / ("b2" if command == "backup" else "b1")))
    assert kind in (errors.BACKUP_IMPOSSIBLE, errors.RESTORE_IMPOSSIBLE)
    assert not (tmp_path / "b2").exists()


# -- usage ---------------------------------------------------------------------------------------------
def test_usage_is_added_up_by_what_is_asked_for(edif: Edif, data: Path) -> None:
    used(
        data,
        ("ada", "2026-10-31", 1.0),
        ("ada", "2026-11-01", 2.0),
        ("ada", "2026-11-30", 4.0),
        ("bob", "2026-11-15", 8.0),
    )
    by_month = edif("usage", "--by", "month")
    assert [(row["month"], row["seconds"], row["jobs"]) for row in by_month] == [
        ("2026-10", 1.0, 1),
        ("2026-11", 14.0, 3),
    ]
    november = edif("usage", "--by", "user", "--since", "2026-11", "--before", "2026-12")
    assert [(row["user"], row["seconds"], row["tokens"], row["result_bytes"]) for row in november] == [
        ("ada", 6.0, 6, 10),
        ("bob", 8.0, 3, 5),
    ]
    assert len(edif("usage")) == 3, "user, group, model and month"
    assert edif("usage", "--since", "2026-11-16", "--by", "user")[0]["seconds"] == 4.0


def test_usage_is_csv_for_spreadsheets(edif: Edif, data: Path) -> None:
    assert list(csv.DictReader(io.StringIO(edif.printed("usage", "--csv")))) == []  # type: ignore[attr-defined]
    used(data, ("ada", "2026-11-01", 2.5))
    (row,) = csv.DictReader(io.StringIO(edif.printed("usage", "--csv")))  # type: ignore[attr-defined]
    assert row == {
        "user": "ada",
        "group": "",
        "model": "m/one",
        "month": "2026-11",
        "jobs": "1",
        "failed": "0",
        "seconds": "2.5",
        "tokens": "3",
        "result_bytes": "5",
    }


# -- audit ---------------------------------------------------------------------------------------------
def changed(data: Path, statement: str) -> None:
    with sqlite3.connect(data / DATABASE_NAME) as connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()


def test_the_log_names_people_and_is_asked_about_them(edif: Edif) -> None:
    for name in ("ada", "bob"):
        edif("users", "add", name)
    edif("users", "change", "ada", "--weight", "2")
    rows = edif("audit", "list", "--about", "ada")
    assert [(row["action"], row["subject_name"]) for row in rows] == [
        ("user.added", "ada"),
        ("user.changed", "ada"),
    ]
    assert all(row["actor"].startswith("cli:") for row in rows)
    edif("users", "remove", "ada")
    last = edif("audit", "list")[-1]
    assert (last["action"], last["subject_name"]) == ("user.removed", None)


def test_a_whole_log_is_verified_against_what_was_kept(edif: Edif) -> None:
    assert edif("audit", "verify") == {"entries": 0, "hash": GENESIS, "faults": []}
    edif("users", "add", "ada")
    first = edif("audit", "verify")
    edif("users", "remove", "ada")
    kept = f"{first['entries']}:{first['hash']}"
    assert edif("audit", "verify", "--expect", kept)["entries"] == 2
    assert refused(edif, "audit", "verify", "--expect", f"1:{GENESIS}") is errors.AUDIT_BROKEN


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'cli:9' WHERE number = 2",
        "DELETE FROM audit WHERE number = 2",
        "DELETE FROM audit WHERE number = 3",
        "UPDATE audit_head SET number = 2",
        "UPDATE audit SET hash = (SELECT hash FROM audit WHERE number = 1) WHERE number = 3",
    ],
    ids=["changed", "dropped", "cut off", "the end moved", "another hash"],
)
def test_a_log_that_somebody_edited_is_found_out(edif: Edif, data: Path, statement: str) -> None:
    for name in ("ada", "bob", "eve"):
        edif("users", "add", name)
    edif("audit", "verify")
    changed(data, statement)
    assert refused(edif, "audit", "verify") is errors.AUDIT_BROKEN


def test_a_log_cut_off_with_its_end_is_found_out_by_what_was_kept(edif: Edif, data: Path) -> None:
    edif("users", "add", "ada")
    before = edif("audit", "verify")
    edif("users", "add", "bob")
    kept = edif("audit", "verify")
    changed(data, "DELETE FROM audit WHERE number = 2")
    changed(data, f"UPDATE audit_head SET number = 1, hash = '{before['hash']}'")
    edif("audit", "verify")  # by itself it is sound
    assert refused(edif, "audit", "verify", "--expect", f"2:{kept['hash']}") is errors.AUDIT_BROKEN


def test_a_log_that_grows_while_it_is_verified_is_whole(
    edif: Edif, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fabric that runs appends between any two looks at the log."""
    edif("users", "add", "ada")
    looks = {"audit": SqlRecordStore.audit, "audit_end": SqlRecordStore.audit_end}

    def growing(name: str) -> Callable[..., Awaitable[object]]:
        async def look(store: SqlRecordStore, **asked: int) -> object:
            found = await looks[name](store, **asked)
            if (await looks["audit_end"](store))[0] < 20:
                await store.note("something.done", "")
            return found

        return look

    for name in looks:
        monkeypatch.setattr(SqlRecordStore, name, growing(name))
    assert edif("audit", "verify")["faults"] == []


# -- what is deleted -----------------------------------------------------------------------------------
def test_a_run_of_retention_is_on_record_with_what_it_deleted_and_one_for_nothing_is_not(
    edif: Edif, data: Path
) -> None:
    """All three jobs ended so long ago that nothing of them is kept."""
    used(data, ("ada", "2001-01-01", 1.0), ("bob", "2001-01-02", 1.0), ("bob", "2001-01-03", 1.0))
    assert edif("retention", "run") == {"retired": 3, "records": 3}
    (act,) = [act for act in edif("audit", "list") if act["action"] == "retention.run"]
    assert act["detail"] == {"results": 3, "records": 3}
    assert act["actor"].startswith("cli:")
    assert edif("retention", "run") == {"retired": 0, "records": 0}
    assert [act["action"] for act in edif("audit", "list")].count("retention.run") == 1


def test_an_erasure_is_on_record_under_the_id_of_the_person(edif: Edif) -> None:
    ada = edif("users", "add", "ada")
    erased = edif("users", "erase", "ada", "--yes")
    (act,) = [act for act in edif("audit", "list") if act["action"] == "user.erased"]
    assert act["subject"] == ada["id"]
    assert erased["pseudonym"].endswith(ada["id"])
