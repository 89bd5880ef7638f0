"""``edif usage``: what was used, for people, programs and spreadsheets."""

import csv
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from edif.cli.options import AsJson, Config, Data
from edif.cli.output import show_json, show_table
from edif.cli.store import with_store
from edif.core import errors
from edif.core.errors import EdifError
from edif.core.quota import day_of
from edif.core.usage import UsageRow


class By(StrEnum):
    USER = "user"
    GROUP = "group"
    MODEL = "model"
    MONTH = "month"


@dataclass(slots=True)
class _Sum:
    jobs: int = 0
    failed: int = 0
    seconds: float = 0.0
    tokens: int = 0
    result_bytes: int = 0

    def add(self, row: UsageRow) -> None:
        self.jobs += row.jobs
        self.failed += row.failed
        self.seconds += row.seconds
        self.tokens += row.tokens
        self.result_bytes += row.result_bytes

    def columns(self) -> dict[str, Any]:
        return {
            "jobs": self.jobs,
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
            "tokens": self.tokens,
            "result_bytes": self.result_bytes,
        }


def usage(
    by: Annotated[
        list[By] | None, typer.Option(help="What makes a row; repeatable. Else user, group, model and month.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="First month or day (UTC): 2026-11 or 2026-11-22.")
    ] = None,
    before: Annotated[str | None, typer.Option(help="The month or day that does not count any more.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Report accelerator seconds, jobs, tokens and result bytes. It outlives the jobs' own records."""
    first = 0 if since is None else _day(since)
    last = None if before is None else _day(before)
    found = with_store(config, data, lambda store: store.usage(since=first, before=last))
    rows = summed(found, tuple(by) if by else tuple(By))
    if as_json:
        show_json(rows)
    elif as_csv:
        _show_csv(rows, [*(by or By), *_Sum().columns()])
    else:
        columns = [str(each) for each in (*(by or By), *_Sum().columns())]
        show_table(columns, [tuple(row.values()) for row in rows], "Nothing was used.")


def summed(rows: Iterable[UsageRow], by: Sequence[By]) -> list[dict[str, Any]]:
    """One row for each combination of what ``by`` names, in order."""
    sums: dict[tuple[str, ...], _Sum] = {}
    for row in rows:
        sums.setdefault(tuple(_value(row, each) for each in by), _Sum()).add(row)
    return [
        {**{str(each): value for each, value in zip(by, key, strict=True)}, **sums[key].columns()}
        for key in sorted(sums)
    ]


def _value(row: UsageRow, by: By) -> str:
    match by:
        case By.USER:
            return row.user
        case By.GROUP:
            return row.group or ""
        case By.MODEL:
            return row.model
        case By.MONTH:
            return f"{datetime.fromtimestamp(row.day * 86_400, UTC):%Y-%m}"


def _day(text: str) -> int:
    """
    Raises:
        EdifError: the text is neither a month nor a day.
    """
    full = f"{text}-01" if re.fullmatch(r"\d{4}-\d{2}", text) else text
    try:
        return day_of(datetime.strptime(full, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise EdifError(
            errors.REQUEST_INVALID, f"{text!r} is no month and no day.", "Write 2026-11 or 2026-11-22."
        ) from None


def _show_csv(rows: list[dict[str, Any]], columns: list[str]) -> None:
    writer = csv.DictWriter(sys.stdout, [str(column) for column in columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
