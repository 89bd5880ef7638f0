"""What ``docs/client.md`` shows runs as it stands, one piece after the other: in a script, in a notebook, in a test."""

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.fabric import PATIENCE_S, Fabric, clean_environment, start_fabric
from tests.unit.docs import DOCS

ADDRESS, KEY = '"https://lab.example.org:8289"', '"your key"'
SHOWN = ("one two three torch.Size([1, 3, 128])", "COMPLETED>")


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    running = start_fabric(tmp_path_factory.mktemp("page") / "data", "--demo")
    try:
        running.wait_metadata("edif/demo")
        yield running
    finally:
        assert running.stop() == 0


@pytest.fixture(scope="module")
def pieces(fabric: Fabric) -> list[str]:
    """The page's code, with this fabric's address and a key for it."""
    fabric.edif("users", "add", "ada")
    key = fabric.edif("keys", "create", "--user", "ada")["key"]
    found = re.findall(r"```python\n(.*?)```", (DOCS / "client.md").read_text(), re.DOTALL)
    whole = "\n".join(found)
    assert (whole.count(ADDRESS), whole.count(KEY)) == (4, 4)
    return [piece.replace(ADDRESS, repr(fabric.url)).replace(KEY, repr(key)) for piece in found]


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env=clean_environment(HF_HOME=str(folder / "hf")),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_page_runs_as_a_script(pieces: list[str], tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("\n".join(pieces))
    said = run(tmp_path, "page.py")
    assert all(words in said for words in SHOWN)


@pytest.mark.slow
def test_the_page_runs_in_a_test(pieces: list[str], tmp_path: Path) -> None:
    body = textwrap.indent("\n".join(pieces), "    ")
    (tmp_path / "test_page.py").write_text(f"def test_page():\n{body}")
    said = run(tmp_path, "-m", "pytest", "-s", "-p", "no:cacheprovider", "test_page.py")
    assert all(words in said for words in SHOWN)
    assert "1 passed" in said


@pytest.mark.slow
def test_the_page_runs_in_a_notebook(pieces: list[str], tmp_path: Path) -> None:
    """Cell by cell in a real kernel, which has an event loop of its own."""
    cells = [nbformat.v4.new_code_cell(piece) for piece in pieces]
    cells.append(
        nbformat.v4.new_code_cell("hidden_again = await job\nprint(sorted(hidden_again), await layers)")
    )
    notebook = nbformat.v4.new_notebook(cells=cells)
    kernel = {"display_name": "this", "name": "this", "language": "python"}
    notebook.metadata["kernelspec"] = kernel
    specs = tmp_path / "jupyter" / "kernels" / "this"
    specs.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (specs / "kernel.json").write_text(json.dumps({"argv": argv, **kernel}))
    environment = clean_environment(HF_HOME=str(tmp_path / "hf"), IPYTHONDIR=str(tmp_path / "ipython"))
    client = NotebookClient(
        notebook,
        timeout=PATIENCE_S,
        kernel_name="this",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.create_kernel_manager()
    client.km.kernel_spec_manager.kernel_dirs = [str(specs.parent)]
    client.execute(env=environment)
    said = json.dumps(notebook.cells)
    assert all(words in said for words in SHOWN)
