"""What ``docs/client.md`` shows runs as it stands, one piece after the other, as in a notebook."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fabric import clean_environment, start_fabric
from tests.unit.docs import DOCS

ADDRESS, KEY = '"https://lab.example.org:8289"', '"your key"'


@pytest.mark.slow
def test_every_piece_of_the_page_runs(tmp_path: Path) -> None:
    pieces = re.findall(r"```python\n(.*?)```", (DOCS / "client.md").read_text(), re.DOTALL)
    program = "\n".join(pieces)
    assert (program.count(ADDRESS), program.count(KEY)) == (2, 2)
    fabric = start_fabric(tmp_path / "data", "--demo")
    try:
        fabric.wait_metadata("edif/demo")
        fabric.edif("users", "add", "ada")
        key = fabric.edif("keys", "create", "--user", "ada")["key"]
        (tmp_path / "page.py").write_text(program.replace(ADDRESS, repr(fabric.url)).replace(KEY, repr(key)))
        done = subprocess.run(
            [sys.executable, "page.py"],
            env=clean_environment(HF_HOME=str(tmp_path / "hf")),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "one two three torch.Size([1, 3, 128])" in done.stdout
        assert "COMPLETED>" in done.stdout
    finally:
        assert fabric.stop() == 0
