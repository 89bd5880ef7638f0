"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

MOST_WEIGHT = 1e6
"""Shares are divided by weights: a boundless one would make every other user nobody."""

Data = Annotated[Path | None, typer.Option("--data", help="The fabric's data folder.", show_default=False)]
Config = Annotated[
    Path | None, typer.Option("--config", help="A configuration file, else ./edif.toml.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="The gateway's URL, else the one that runs on the data folder.", show_default=False
    ),
]
