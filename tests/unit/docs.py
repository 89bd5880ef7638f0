"""Reading the tables of the pages in ``docs/``."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def rows(page: str) -> list[list[str]]:
    """The cells of every table row of a page, in order, without heads and rules."""
    lines = (DOCS / page).read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [row for row in cells if row[0].startswith("`")]


def blocks(page: str, language: str) -> list[str]:
    """The pieces of code in this language on a page, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def plain(cell: str) -> str:
    """A cell that is one piece of code, without its quotes."""
    assert cell.startswith("`"), cell
    assert cell.endswith("`"), cell
    return cell[1:-1]
