"""What `make demo` shows: start a fabric with the demo model, run hello.py against it as a user would, stop.

The fabric and the client are separate processes; the client gets nothing but the printed variables.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
EDIF = Path(sys.executable).with_name("edif")


def main() -> int:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edif-demo-") as folder:
        print("$ edif serve --demo --port 0", flush=True)
        fabric = subprocess.Popen(
            [EDIF, "serve", "--demo", "--port", "0", "--data", f"{folder}/data"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            url = _url(fabric)
            if url is None:
                print("The fabric did not start; see above.")
                return 1
            print(f"  listening at {url} after {time.perf_counter() - began:.1f} s", flush=True)
            variables = {"NDIF_HOST": url, "HF_ENDPOINT": f"{url}/hub", "HF_HOME": f"{folder}/hf"}
            print(f"$ NDIF_HOST={url} HF_ENDPOINT={url}/hub python examples/hello.py", flush=True)
            # An empty folder: the client ships modules that lie beside the script.
            code = subprocess.run(
                [sys.executable, str(HERE / "hello.py")],
                env={**os.environ, **variables},
                cwd=folder,
                check=False,
            ).returncode
        finally:
            fabric.send_signal(signal.SIGINT)
            fabric.wait(timeout=30)
    print(f"\nThe whole demo took {time.perf_counter() - began:.1f} s.")
    if code == 0:
        print("Next: .venv/bin/edif serve --demo")
    return code


def _url(fabric: "subprocess.Popen[str]") -> str | None:
    assert fabric.stdout is not None
    for line in fabric.stdout:
        if line.startswith("eDIF is listening at "):
            return line.split()[4]
    return None


if __name__ == "__main__":
    sys.exit(main())
