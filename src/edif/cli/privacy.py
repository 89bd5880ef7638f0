"""``edif users export`` and ``erase``: what is on record about one person, and taking it off."""

import asyncio
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from edif.cli.options import AsJson, Config, Data
from edif.cli.output import say, show_json
from edif.cli.people import public_key
from edif.cli.store import me, with_store
from edif.core import errors
from edif.core.errors import EdifError, Refused
from edif.core.ids import ERASED, UserName, new_user_id
from edif.core.job import JobState
from edif.core.quota import Scope
from edif.records.store import RecordStore
from edif.settings import Settings, load

_ALL = 10_000_000
_SEEN_BY_GATEWAYS_S = 2.0
"""A gateway that runs believes what it read about a key for one second."""


def users_export(name: str, data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """Print everything on record about one person, as JSON: the person, quotas, keys, jobs with tries, usage, acts.

    Results are listed with their jobs; the person fetches them with a key, as long as they are kept.
    """
    del as_json  # there is no other form
    show_json(with_store(config, data, lambda store: _everything(store, UserName(name))))


async def _everything(store: RecordStore, name: UserName) -> dict[str, Any]:
    user = await store.user(name)
    if user is None and not await store.on_record(name):
        raise EdifError(errors.USER_UNKNOWN, f"Nothing is on record about {name!r}.")
    jobs = await store.jobs(owner=name, limit=_ALL)
    usage = [asdict(row) for row in await store.usage() if row.user == name]
    quotas = (await store.people()).quotas.get((Scope.USER, name), {})
    about = [] if user is None else [user.id, f"user:{user.id}"]
    acts = [asdict(record) for each in about for record in await store.audit(about=each, limit=_ALL)]
    return {
        "user": None if user is None else asdict(user),
        "quotas": [asdict(quota) for quota in quotas.values()],
        "keys": [public_key(key) for key in await store.keys(name)],
        "jobs": [
            {**asdict(job), "tries": [asdict(each) for each in await store.attempts(job.id)]} for job in jobs
        ],
        "usage": usage,
        "audit": sorted(acts, key=lambda act: act["number"]),
    }


def users_erase(
    name: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Take one person off the record: the user, keys, payloads and results. Jobs and usage stay, under a pseudonym.

    The audit log never had the name. Backups and log files have it until they are deleted; see docs/privacy.md.
    """
    if not yes:
        typer.confirm(f"Delete {name}, every key and every result, for good?", abort=True, err=True)
    settings = load(config, data=data)
    pseudonym = with_store(config, data, lambda store: _erase(store, UserName(name), settings))
    if as_json:
        show_json({"erased": name, "pseudonym": pseudonym})
    else:
        say(f"Erased {name}. Jobs and usage are on record as {pseudonym}.")


async def _erase(store: RecordStore, name: UserName, settings: Settings) -> UserName:
    from edif.gateway.retention import delete_blobs
    from edif.launch.blobs import open_blobs
    from edif.launch.data_folder import DataFolder

    folder, elsewhere = DataFolder(settings.data.resolve()), settings.record_store is not None
    user = await store.user(name)
    await store.remove_user(name, time.time(), by=me())  # from now on no key of theirs is let in
    if elsewhere or folder.held("gateway"):  # a gateway may run, also on another machine
        await asyncio.sleep(_SEEN_BY_GATEWAYS_S)
    if user is None and not await store.on_record(name):
        raise EdifError(errors.USER_UNKNOWN, f"Nothing is on record about {name!r}.")
    waiting = await store.jobs(owner=name, states=[JobState.QUEUED, JobState.RUNNING])
    if waiting:
        ids = " ".join(job.id for job in waiting[:3])
        raise Refused(
            errors.STATE_CONFLICT,
            f"The user {name!r} was removed, but {len(waiting)} of their jobs have not ended ({ids}).",
            "Cancel them with `edif jobs cancel ID`, or let them end; then run this again.",
        )
    blobs = open_blobs(settings, folder)
    while stored := await store.blobs_of(
        name
    ):  # again if links were revoked meanwhile, which gives results other names
        for job in stored:
            await delete_blobs(blobs, job)
        await store.mark_blobs_deleted(stored)
    pseudonym = UserName(f"{ERASED}{new_user_id() if user is None else user.id}")
    await store.erase_user(name, pseudonym, by=me())
    return pseudonym
