"""``edif quota``: what users and groups may use. Written to the record store itself."""

import math
import re
from dataclasses import asdict
from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from edif.cli.options import AsJson, Config, Data
from edif.cli.output import say, show_json, show_table
from edif.cli.store import me, with_store
from edif.core import errors
from edif.core.errors import EdifError
from edif.core.ids import GroupName, UserName
from edif.core.quota import Measure, Quota, Scope
from edif.records.store import RecordStore

quota = typer.Typer(no_args_is_help=True, help="What a user, a group, or each user may use.")

OfUser = Annotated[str | None, typer.Option("--user", help="Of this user, in place of what binds each user.")]
OfGroup = Annotated[str | None, typer.Option("--group", help="Of this group's members together.")]
OfEach = Annotated[bool, typer.Option("--each-user", help="Of each user who has none of their own.")]

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@quota.command("set")
def quota_set(
    measure: Annotated[Measure, typer.Argument(help="What is limited.")],
    amount: Annotated[str, typer.Argument(help="A number; seconds also as 90m or 2h, bytes also as 10GiB.")],
    user: OfUser = None,
    group: OfGroup = None,
    each_user: OfEach = False,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Set a quota, in place of an earlier one; a fabric that runs goes by it within a second."""
    made = Quota(*_whose(user, group, each_user), measure, _amount(amount, measure))
    with_store(config, data, lambda store: _set(store, made, made.amount))
    if as_json:
        show_json(asdict(made))
    else:
        say(f"{_name(made)}: {measure} {_shown(made)}.")


@quota.command("unset")
def quota_unset(
    measure: Annotated[Measure, typer.Argument(help="What is no longer limited.")],
    user: OfUser = None,
    group: OfGroup = None,
    each_user: OfEach = False,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Take a quota away."""
    gone = Quota(*_whose(user, group, each_user), measure, 0.0)
    with_store(config, data, lambda store: _set(store, gone, None))
    if as_json:
        show_json({"unset": measure, "scope": gone.scope, "name": gone.name})
    else:
        say(f"{_name(gone)}: no quota for {measure}.")


@quota.command("list")
def quota_list(data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the quotas that are set."""
    people = with_store(config, data, lambda store: store.people())
    found = sorted(
        (each for of_one in people.quotas.values() for each in of_one.values()),
        key=lambda each: (each.scope, each.name, each.measure),
    )
    if as_json:
        show_json([asdict(each) for each in found])
    else:
        rows = [(_name(each), each.measure, _shown(each)) for each in found]
        show_table(("whose", "measure", "amount"), rows, "No quotas: everyone may use what is free.")


def _whose(user: str | None, group: str | None, each_user: bool) -> tuple[Scope, str]:
    if [user is not None, group is not None, each_user].count(True) != 1:
        raise EdifError(
            errors.REQUEST_INVALID,
            "It is not clear whose quota is meant.",
            "Name one of --user NAME, --group NAME or --each-user.",
        )
    if user is not None:
        return Scope.USER, user
    return (Scope.GROUP, group) if group is not None else (Scope.EACH_USER, "")


async def _set(store: RecordStore, made: Quota, amount: float | None) -> None:
    people = await store.people()
    if made.scope is Scope.USER and UserName(made.name) not in people.users:
        raise EdifError(errors.USER_UNKNOWN, f"There is no user {made.name!r}.")
    if made.scope is Scope.GROUP and GroupName(made.name) not in people.groups:
        raise EdifError(errors.GROUP_UNKNOWN, f"There is no group {made.name!r}.")
    await store.set_quota(made.scope, made.name, made.measure, amount, by=me())


def _amount(text: str, measure: Measure) -> float:
    """
    Raises:
        EdifError: the text is no amount of what is measured.
    """
    if measure.in_bytes:
        try:
            return float(TypeAdapter(ByteSize).validate_python(text))
        except (ValidationError, OverflowError):
            raise _no_amount(text, measure) from None
    match = _TIME.fullmatch(text.strip().replace(",", ""))
    timed = measure in (Measure.SECONDS_PER_DAY, Measure.SECONDS_PER_MONTH)
    amount = math.inf if match is None else float(match[1]) * _SECONDS[match[2]]
    if match is None or not (timed or (not match[2] and amount.is_integer())) or not math.isfinite(amount):
        raise _no_amount(text, measure)
    return amount


def _no_amount(text: str, measure: Measure) -> EdifError:
    return EdifError(
        errors.REQUEST_INVALID,
        f"{text!r} is no amount for {measure}.",
        "Write a number, of jobs a whole one; seconds also as 90m or 2h, bytes also as 10GiB.",
    )


def _name(each: Quota) -> str:
    return "each user" if each.scope is Scope.EACH_USER else f"{each.scope} {each.name}"


def _shown(each: Quota) -> str:
    """The amount, whole numbers with all their digits."""
    return f"{each.amount:,.0f}" if each.amount.is_integer() else f"{each.amount:,.10g}"
