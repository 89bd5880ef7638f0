"""``edif retention``: what is kept for how long, and what lies there now."""

import time
from typing import Any

import typer

from edif.cli.options import AsJson, Config, Data
from edif.cli.output import moment, say, show_json, show_table
from edif.cli.store import me, with_store
from edif.records.store import RecordStore
from edif.settings import Settings, load

retention = typer.Typer(no_args_is_help=True, help="How long results, records and logs are kept.")

_DAY_S = 24 * 3600.0


@retention.command("show")
def retention_show(data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show the periods, and what is held now. The periods are settings: docs/configuration.md."""
    settings = load(config, data=data)
    held = with_store(config, data, _held)
    rows = [
        _row("payloads", "until the job has ended", None, held["waiting"]),
        _row("results", None, settings.retention_s, held["results"]),
        _row("job records", None, max(settings.record_retention_s, settings.retention_s), held["records"]),
        _row("logs", None, settings.log_retention_s, {}),
        _row("users, keys, quotas", "until removed", None, {}),
        _row("usage by day", "for ever; under a pseudonym once a person is erased", None, {}),
        _row("audit log", "for ever; it holds no names", None, {}),
    ]
    if as_json:
        show_json(rows)
        return
    shown = [
        (
            row["what"],
            row["kept"] or f"{row['kept_s'] / _DAY_S:g} days",
            row["number"],
            None if row["bytes"] is None else f"{row['bytes'] / 2**20:,.1f} MiB",
            moment(row["oldest"]),
        )
        for row in rows
    ]
    show_table(("what", "kept", "now held", "size", "oldest"), shown, "")


def _row(what: str, kept: str | None, kept_s: float | None, held: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: held.get(name) for name in ("number", "bytes", "oldest")}
    return {"what": what, "kept": kept, "kept_s": kept_s, **numbers}


async def _held(store: RecordStore) -> dict[str, dict[str, Any]]:
    found = await store.held()
    return {
        "waiting": {"number": found.unfinished, "bytes": found.payload_bytes, "oldest": None},
        "results": {
            "number": found.results,
            "bytes": found.result_bytes,
            "oldest": found.oldest_result,
        },
        "records": {"number": found.records, "bytes": None, "oldest": found.oldest_record},
    }


@retention.command("run")
def retention_run(data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """Delete now what is due; a gateway that runs does so every minute by itself."""
    settings = load(config, data=data)
    results, records = with_store(config, data, lambda store: _run(store, settings))
    if as_json:
        show_json({"retired": results, "records": records})
    else:
        say(f"Deleted the results of {results} job(s) and the records of {records}.")


async def _run(store: RecordStore, settings: Settings) -> tuple[int, int]:
    from edif.gateway.retention import Retention, retire_some
    from edif.launch.blobs import open_blobs
    from edif.launch.data_folder import DataFolder

    blobs = open_blobs(settings, DataFolder(settings.data.resolve()))
    periods = Retention(settings.retention_s, settings.record_retention_s)
    results = records = 0
    try:
        while deleted := await retire_some(store, blobs, periods, lambda job: None, time.time()):
            results, records = results + deleted.results, records + deleted.records
    finally:  # also of a run that breaks off
        if results or records:
            await store.note("retention.run", "results", by=me(), results=results, records=records)
    return results, records
