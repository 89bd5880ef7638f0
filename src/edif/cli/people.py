"""``edif users`` and ``edif keys``: written to the record store itself, so they work before the first start;
a gateway that runs sees the change within a second.
"""

import time
from dataclasses import asdict, replace
from typing import Annotated

import typer

from edif.cli.names import check_user_name
from edif.cli.options import MOST_WEIGHT, AsJson, Config, Data
from edif.cli.output import moment, say, show_json, show_table
from edif.cli.store import me, with_store
from edif.core import errors
from edif.core.errors import EdifError
from edif.core.ids import GroupName, UserName
from edif.core.limits import Isolation
from edif.core.users import ApiKey, Priority, Role, User
from edif.records.store import RecordStore
from edif.settings import load

users = typer.Typer(no_args_is_help=True, help="Who may use the fabric.")
keys = typer.Typer(no_args_is_help=True, help="The API keys of users.")

_DAY_S = 24 * 3600.0


InGroup = Annotated[str | None, typer.Option("--group", help="The group whose weight the user shares.")]
Weight = Annotated[
    float | None,
    typer.Option(
        min=0.001, max=MOST_WEIGHT, help="Part among the group's users, or among groups without one."
    ),
]
Class = Annotated[Priority | None, typer.Option(help="Whose jobs go first; else as the group's.")]


@users.command("add")
def users_add(
    name: str,
    role: Annotated[Role, typer.Option(help="What the person may do.")] = Role.RESEARCHER,
    email: Annotated[str | None, typer.Option(help="Shown by nnsight.whoami().")] = None,
    group: InGroup = None,
    weight: Weight = None,
    priority: Class = None,
    returning: Annotated[
        bool,
        typer.Option("--returning", help="The person who had this name before: gets jobs and usage back."),
    ] = False,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Add a user. From the first user on, the fabric asks everyone for a key."""
    check_user_name(name)
    user = User(
        UserName(name),
        role,
        time.time(),
        email,
        group=None if group is None else GroupName(group),
        weight=weight or 1.0,
        priority=priority,
    )

    async def add(store: RecordStore) -> tuple[bool, bool]:
        await _check_group(store, user.group)
        if not returning and await store.user(user.name) is None and await store.on_record(user.name):
            raise EdifError(
                errors.USER_EXISTS,
                f"Somebody was removed whose jobs, usage or keys are on record as {name!r}.",
                f"Erase them first: edif users erase {name}. If it is the same person again: --returning.",
            )
        return not await store.any_user(), await store.add_user(user, by=me())

    first, added = with_store(config, data, add)
    if not added:
        raise EdifError(errors.USER_EXISTS, f"There is already a user {name!r}.")
    if as_json:
        show_json(asdict(user))
    else:
        say(f"Added {name} ({role}). Give them a key: edif keys create --user {name}")
        if first:
            say(_first_user(load(config, data=data).isolation))


@users.command("change")
def users_change(
    name: str,
    role: Annotated[Role | None, typer.Option(help="What the person may do.")] = None,
    email: Annotated[str | None, typer.Option(help="Shown by nnsight.whoami().")] = None,
    group: Annotated[str | None, typer.Option(help="The user's group from now on; '' for none.")] = None,
    weight: Weight = None,
    priority: Annotated[str | None, typer.Option(help="high, normal, low, or '' for the group's.")] = None,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Change what is named; a fabric that runs goes by it within a second."""
    given = {"role": role, "email": email, "weight": weight}
    changes: dict[str, object] = {field: value for field, value in given.items() if value is not None}
    if group is not None:
        changes["group"] = GroupName(group) if group else None
    if priority is not None:
        changes["priority"] = _priority(priority)

    async def change(store: RecordStore) -> User:
        user = await store.user(UserName(name))
        if user is None:
            raise EdifError(errors.USER_UNKNOWN, f"There is no user {name!r}.")
        changed = replace(user, **changes)  # type: ignore[arg-type]  # each is checked above
        await _check_group(store, changed.group)
        await store.change_user(changed, by=me())
        return changed

    user = with_store(config, data, change)
    if as_json:
        show_json(asdict(user))
    else:
        say(f"Changed {name}.")


def _priority(text: str) -> Priority | None:
    if not text:
        return None
    try:
        return Priority(text)
    except ValueError:
        raise EdifError(
            errors.REQUEST_INVALID,
            f"{text!r} is no priority.",
            "Use high, normal, low, or '' for the group's.",
        ) from None


async def _check_group(store: RecordStore, group: GroupName | None) -> None:
    if group is not None and group not in (await store.people()).groups:
        raise EdifError(errors.GROUP_UNKNOWN, f"There is no group {group!r}.")


def _first_user(isolation: Isolation) -> str:
    """What changes with the first user."""
    keys = "From now on this fabric asks everyone for a key"
    match isolation:
        case Isolation.SHARED:
            return f"{keys}. Jobs stay in one shared process, as `isolation` says: give keys to people you trust."
        case Isolation.SEALED:
            return f"{keys}; jobs are sealed as before."
        case Isolation.AUTO:
            return f"{keys}, and each new job runs sealed, in a process of its own (within a second on a running fabric)."


@users.command("list")
def users_list(data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the users."""
    found = with_store(config, data, lambda store: store.users())
    if as_json:
        show_json([asdict(user) for user in found])
    else:
        rows = [
            (
                user.name,
                user.role,
                user.email,
                user.group,
                user.weight,
                user.priority,
                moment(user.created_at),
            )
            for user in found
        ]
        show_table(
            ("name", "role", "email", "group", "weight", "priority", "added"),
            rows,
            "No users: the fabric answers on loopback only, without keys.",
        )


@users.command("remove")
def users_remove(name: str, data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """Remove a user and revoke all keys; the user's jobs stay on record."""
    if not with_store(config, data, lambda store: store.remove_user(UserName(name), time.time(), by=me())):
        raise EdifError(errors.USER_UNKNOWN, f"There is no user {name!r}.")
    if as_json:
        show_json({"removed": name})
    else:
        say(f"Removed {name}; the keys no longer work.")


@keys.command("create")
def keys_create(
    user: Annotated[str, typer.Option(help="Whose key it is.")],
    days: Annotated[
        float | None, typer.Option(help="Days until it expires; without it, it does not.")
    ] = None,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown now and never again."""
    secret, key = with_store(config, data, lambda store: _create(store, UserName(user), days))
    _show_secret(secret, key, as_json=as_json)


@keys.command("list")
def keys_list(
    user: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List keys: everything but the keys themselves."""
    found = with_store(config, data, lambda store: store.keys(None if user is None else UserName(user)))
    if as_json:
        show_json([public_key(key) for key in found])
        return
    now = time.time()
    rows = [
        (
            key.id,
            key.user,
            "usable" if key.usable(now) else "revoked" if key.revoked_at else "expired",
            moment(key.created_at),
            moment(key.expires_at),
        )
        for key in found
    ]
    show_table(("id", "user", "state", "made", "expires"), rows, "No keys.")


@keys.command("revoke")
def keys_revoke(key_id: str, data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """Make a key useless, at once."""
    if not with_store(config, data, lambda store: store.revoke_key(key_id, time.time(), by=me())):
        raise EdifError(errors.KEY_ID_UNKNOWN, f"There is no usable key {key_id!r}.")
    if as_json:
        show_json({"revoked": key_id})
    else:
        say(f"Revoked {key_id}.")


@keys.command("rotate")
def keys_rotate(
    key_id: str,
    days: Annotated[float | None, typer.Option(help="Days until the new key expires.")] = None,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Replace a key by a new one of the same user; the old one is revoked."""
    secret, key = with_store(config, data, lambda store: _rotate(store, key_id, days))
    _show_secret(secret, key, as_json=as_json)


async def _create(store: RecordStore, user: UserName, days: float | None) -> tuple[str, ApiKey]:
    from edif.records.keys import mint

    if await store.user(user) is None:
        raise EdifError(
            errors.USER_UNKNOWN, f"There is no user {user!r}.", f"Add them first: edif users add {user}"
        )
    secret, key = mint(user, time.time(), None if days is None else days * _DAY_S)
    await store.add_key(key, by=me())
    return secret, key


async def _rotate(store: RecordStore, key_id: str, days: float | None) -> tuple[str, ApiKey]:
    old = await store.key_by_id(key_id)
    if old is None:
        raise EdifError(errors.KEY_ID_UNKNOWN, f"There is no key {key_id!r}.")
    made = await _create(store, old.user, days)
    await store.revoke_key(key_id, time.time(), by=me())
    return made


def _show_secret(secret: str, key: ApiKey, *, as_json: bool) -> None:
    if as_json:
        show_json({"key": secret, **public_key(key)})
        return
    say(secret)
    say(f"This is the key {key.id} of {key.user}; it is not shown again. For the client:")
    say(f"  export NDIF_API_KEY={secret} HF_TOKEN={secret}")


def public_key(key: ApiKey) -> dict[str, object]:
    shown = asdict(key)
    del shown["digest"]
    return shown
