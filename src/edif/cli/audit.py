"""``edif audit``: the log of every act, read and verified."""

import json
from typing import Annotated, Any

import typer

from edif.cli.options import AsJson, Config, Data
from edif.cli.output import moment, say, show_json, show_table
from edif.cli.store import with_store
from edif.core import errors
from edif.core.audit import GENESIS, AuditRecord, Chain
from edif.core.errors import EdifError
from edif.core.people import People
from edif.records.store import RecordStore

audit = typer.Typer(no_args_is_help=True, help="The log of every act: append-only, and chained by hashes.")

_PART = 5000


@audit.command("list")
def audit_list(
    about: Annotated[
        str | None, typer.Option(help="Only entries with this actor or subject: a user's name, or an id.")
    ] = None,
    after: Annotated[int, typer.Option(min=0, help="Only entries with greater numbers.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, oldest first.")] = 100,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List entries, oldest first. People are named as long as their names are not erased."""

    async def read(store: RecordStore) -> tuple[People, list[AuditRecord]]:
        people = await store.people()
        named = {str(user.name): str(user.id) for user in people.users.values()}
        wanted = [about] if about is None or about not in named else [named[about], f"user:{named[about]}"]
        found = [
            record for each in wanted for record in await store.audit(after=after, limit=limit, about=each)
        ]
        return people, sorted({record.number: record for record in found}.values(), key=lambda r: r.number)

    people, records = with_store(config, data, read)
    names = {user.id: user.name for user in people.users.values()}
    shown = [_shown(record, names) for record in records[:limit]]
    if as_json:
        show_json(shown)
    else:
        rows = [
            (
                row["number"],
                moment(row["at_us"] / 1e6),
                row["actor_name"] or row["actor"],
                row["action"],
                row["subject_name"] or row["subject"],
                " ".join(f"{name}={value}" for name, value in row["detail"].items()),
            )
            for row in shown
        ]
        show_table(("number", "time", "who", "did", "to", "detail"), rows, "No entries.")


def _shown(record: AuditRecord, names: dict[Any, Any]) -> dict[str, Any]:
    entry = record.entry
    return {
        "number": record.number,
        "at_us": entry.at_us,
        "actor": entry.actor,
        "actor_name": names.get(entry.actor.removeprefix("user:")),
        "action": entry.action,
        "subject": entry.subject,
        "subject_name": names.get(entry.subject),
        "detail": json.loads(entry.detail),
        "hash": record.hash,
    }


@audit.command("verify")
def audit_verify(
    expect: Annotated[
        str | None, typer.Option(help="NUMBER:HASH that an earlier run printed and that was kept elsewhere.")
    ] = None,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Verify the whole log. Keep the number and hash that it prints elsewhere: they show later that nothing was cut off."""

    kept = _kept(expect)

    async def check(store: RecordStore) -> tuple[int, str, list[str]]:
        chain, told = Chain(), []
        # A fabric that runs appends meanwhile: the end is the one from before, and entries after it are followed as well.
        places = [(await store.audit_end(), "written"), *([(kept, "kept")] if kept is not None else [])]
        while part := await store.audit(after=chain.number, limit=_PART):
            for record in part:
                told += [fault.sentence for fault in chain.follow(record)]
                told += [
                    f"Entry {record.number} has another hash than the one that was {how}."
                    for (number, digest), how in places
                    if record.number == number and record.hash != digest
                ]
        for (number, _), how in places:
            if chain.number < number:
                told.append(f"The log ends with entry {chain.number}; {number} were {how}.")
        written, _ = await store.audit_end()
        if written < chain.number:
            told.append(f"The log goes on to entry {chain.number}; {written} were written.")
        return chain.number, chain.hash, told

    number, newest, told = with_store(config, data, check)
    if as_json:
        show_json({"entries": number, "hash": newest, "faults": told})
    if told:
        raise EdifError(errors.AUDIT_BROKEN, " ".join(told[:5]))
    if not as_json:
        say(f"The log of {number} entries is whole. Keep this: {number}:{newest}")


def _kept(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    number, _, digest = text.partition(":")
    if not number.isdigit() or len(digest) != len(GENESIS):
        raise EdifError(errors.REQUEST_INVALID, f"{text!r} is not NUMBER:HASH.")
    return int(number), digest
