"""Tables for people, JSON for programs, errors for both."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_UNBROKEN = 100_000
"""Columns of a line that goes to a file or another program."""


def show_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """A table on standard output, or the sentence ``empty`` when there is nothing to show.

    The first column, which names the row, is not broken while others can be; what no person looks at is not broken at all.
    """
    console = Console(markup=False)  # what people wrote is shown as they wrote it
    if not console.is_terminal:
        console.width = _UNBROKEN
    if not rows:
        console.print(empty)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    console.print(table)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Said beside what a command prints, which programs may read."""
    sys.stderr.write(text + "\n")


def moment(unix_s: float | None) -> str | None:
    """A time of day for people, in local time."""
    return None if unix_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))


def complain(text: str) -> None:
    sys.stderr.write(f"Error: {text}\n")
