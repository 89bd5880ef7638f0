"""``edif groups``: labs and courses whose members share one weight. Written to the record store itself."""

import time
from dataclasses import asdict, replace
from typing import Annotated

import typer

from edif.cli.names import check_name
from edif.cli.options import MOST_WEIGHT, AsJson, Config, Data
from edif.cli.output import say, show_json, show_table
from edif.cli.store import me, with_store
from edif.core import errors
from edif.core.errors import EdifError
from edif.core.ids import GroupName
from edif.core.quota import month_begins
from edif.core.users import Group, Priority
from edif.records.store import RecordStore

groups = typer.Typer(no_args_is_help=True, help="Labs and courses: users who share one weight.")

Weight = Annotated[
    float | None, typer.Option(min=0.001, max=MOST_WEIGHT, help="The group's part among all groups.")
]
Class = Annotated[Priority | None, typer.Option(help="Whose jobs go first.")]


@groups.command("add")
def groups_add(
    name: str,
    weight: Weight = None,
    priority: Class = None,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Add a group; then: edif users change NAME --group GROUP."""
    check_name(name)
    group = Group(GroupName(name), time.time(), weight or 1.0, priority or Priority.NORMAL)

    async def add(store: RecordStore) -> tuple[bool, float]:
        before = [row for row in await store.usage(since=month_begins(time.time())) if row.group == name]
        return await store.add_group(group, by=me()), sum(row.seconds for row in before)

    added, seconds = with_store(config, data, add)
    if not added:
        raise EdifError(errors.GROUP_EXISTS, f"There is already a group {name!r}.")
    if as_json:
        show_json({**asdict(group), "seconds_this_month": seconds})
        return
    say(f"Added the group {name}. Put people in it: edif users change NAME --group {name}")
    if seconds:
        say(
            f"An earlier group {name} used {seconds:,.0f} s this month, which count for this one too. Choose another name to begin with nothing."
        )


@groups.command("change")
def groups_change(
    name: str,
    weight: Weight = None,
    priority: Class = None,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Change a group's weight or priority; a fabric that runs goes by it within a second."""

    async def change(store: RecordStore) -> Group:
        group = (await store.people()).groups.get(GroupName(name))
        if group is None:
            raise EdifError(errors.GROUP_UNKNOWN, f"There is no group {name!r}.")
        changed = replace(group, weight=weight or group.weight, priority=priority or group.priority)
        await store.change_group(changed, by=me())
        return changed

    group = with_store(config, data, change)
    if as_json:
        show_json(asdict(group))
    else:
        say(f"Changed {name}: weight {group.weight:g}, priority {group.priority}.")


@groups.command("list")
def groups_list(data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the groups and who is in them."""
    people = with_store(config, data, lambda store: store.people())
    members = {
        name: sorted(user.name for user in people.users.values() if user.group == name)
        for name in people.groups
    }
    found = sorted(people.groups.values(), key=lambda group: group.name)
    if as_json:
        show_json([{**asdict(group), "members": members[group.name]} for group in found])
    else:
        rows = [(g.name, g.weight, g.priority, " ".join(members[g.name]) or None) for g in found]
        show_table(("name", "weight", "priority", "members"), rows, "No groups: each user weighs alone.")


@groups.command("remove")
def groups_remove(name: str, data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """Remove a group and its quotas; its users stay, in no group."""
    if not with_store(config, data, lambda store: store.remove_group(GroupName(name), by=me())):
        raise EdifError(errors.GROUP_UNKNOWN, f"There is no group {name!r}.")
    if as_json:
        show_json({"removed": name})
    else:
        say(f"Removed the group {name}.")
