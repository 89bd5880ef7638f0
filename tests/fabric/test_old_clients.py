"""Real clients of earlier generations are refused with a sentence that they show."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fabric import Fabric, start_fabric

INSTALLED = Path(sys.prefix) / "old-clients"
PROGRAM = """
import sys
import nnsight

assert nnsight.__version__ == sys.argv[1], nnsight.__file__
nnsight.CONFIG.API.HOST = sys.argv[2]
nnsight.CONFIG.API.APIKEY = "none is needed"
model = nnsight.LanguageModel("edif/demo")
with model.trace("Mary and John", remote=True):
    logits = model.lm_head.output.save()
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    fabric = start_fabric(tmp_path_factory.mktemp("old") / "data", "--demo")
    fabric.wait_metadata("edif/demo")
    yield fabric
    fabric.stop()


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED.is_dir(), reason="make .venv/old-clients")
@pytest.mark.parametrize("version", ["0.5.15", "0.6.3", "0.7.0"])
def test_is_told_what_to_install(version: str, demo: Fabric, tmp_path: Path) -> None:
    environment = demo.client_environment(tmp_path)
    environment["PYTHONPATH"] = f"{INSTALLED / version}:{INSTALLED / 'shared'}"
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(script), version, demo.url],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert (
        f"you use nnsight {version}. Run: pip install 'nnsight==0.8.1' 'transformers<5.23' [client_too_old]"
        in last
    )
