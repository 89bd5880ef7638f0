"""Making recorded requests, without importing torch here."""

import subprocess
import sys
from pathlib import Path

from tests.sizes import SIZES

_PROGRAMS = Path(__file__).with_name("minted_programs.py")


def mint(model_folder: Path, folder: Path) -> Path:
    """Write ``NAME.zst`` for every program, and some as ``NAME.raw``, below ``folder``, and return it."""
    work = folder / "cwd"
    work.mkdir(parents=True, exist_ok=True)
    script = work / "programs.py"
    script.write_text(_PROGRAMS.read_text())
    words = (str(model_folder), str(folder), str(SIZES.large_result_mib))
    subprocess.run([sys.executable, str(script), *words], check=True, cwd=work)
    return folder
