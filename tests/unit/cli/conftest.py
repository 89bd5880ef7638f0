"""The command line in this process, on a data folder of the test's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edif.cli.main import app
from edif.core.errors import EdifError

Edif = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def edif(data: Path) -> Edif:
    """Runs a command with ``--json``; its answer. The command's error is raised."""

    def run(*words: str) -> Any:
        return json.loads(printed(*words, "--json"))

    def printed(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--data", str(data)], catch_exceptions=True)
        if isinstance(result.exception, EdifError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    run.printed = printed  # type: ignore[attr-defined]
    return run
