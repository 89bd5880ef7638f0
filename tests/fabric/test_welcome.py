"""What ``edif serve`` prints can be pasted as it stands."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import run_forked
from tests.support.fabric import Fabric, clean_environment, start_fabric


def _blocks(welcome: str) -> list[str]:
    """The indented blocks of the text, in order."""
    blocks: list[list[str]] = [[]]
    for line in welcome.splitlines():
        if line.startswith("    "):
            blocks[-1].append(line[4:])
        elif line and blocks[-1]:
            blocks.append([])
        elif blocks[-1]:
            blocks[-1].append("")
    return ["\n".join(block).strip() for block in blocks if block]


def _learned(fabric: Fabric) -> dict[str, Any]:
    """What the agent wrote down of how passes may be shared; a replica that runs has told it."""
    lines = [line for line in fabric.log("agent").splitlines() if "replica.mergeable" in line]
    return dict(json.loads(lines[0]))


def _welcome(folder: Path) -> tuple[str, Fabric]:
    fabric = start_fabric(folder, "--demo", "--merge-padding", "on")
    assert fabric.process.stdout is not None
    text = ""
    while "Stop with Ctrl-C" not in text:
        line = fabric.process.stdout.readline().decode()
        assert line, "the supervisor ended"
        text += line
    fabric.wait_metadata("edif/demo")
    return text, fabric


@pytest.mark.slow
def test_variables_and_program_run_as_they_are_printed(tmp_path: Path) -> None:
    text, fabric = _welcome(tmp_path / "data")
    try:
        variables, program = _blocks(text)
        assert len(program.splitlines()) == 8
        assert "NDIF_API_KEY" not in variables, "no users, no keys"
        (tmp_path / "hello.py").write_text(program)
        done = subprocess.run(
            ["bash", "-c", f"{variables}\n{sys.executable} hello.py"],
            env=clean_environment(HF_HOME=str(tmp_path / "hf")),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed = done.stdout.strip().splitlines()
        assert printed[-3].split()[0] == "Mary"
        assert float(printed[-3].split()[1]) > 0.5
        assert _learned(fabric)["padded_difference"] is not None, "the flag was heard"
        assert _learned(fabric)["why_unpadded"] == ""
    finally:
        assert fabric.stop() == 0


def test_keys_are_named_only_where_they_are_needed(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    assert run_forked(["users", "add", "ada", *data], clean_environment()).returncode == 0
    fabric = start_fabric(tmp_path / "data", "--demo")
    try:
        assert fabric.process.stdout is not None
        text = "".join(fabric.process.stdout.readline().decode() for _ in range(5))
        assert "NDIF_API_KEY=<key> HF_TOKEN=<key>" in text
    finally:
        assert fabric.stop() == 0
