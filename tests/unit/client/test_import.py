"""What ``import edif`` and ``edif.connect`` load."""

import subprocess
import sys

HEAVY = ("torch", "nnsight", "httpx", "websockets", "tqdm", "asyncio")
SERVER = (
    "fastapi",
    "starlette",
    "uvicorn",
    "sqlalchemy",
    "structlog",
    "prometheus_client",
    "pydantic_settings",
)


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = run(f"import sys, edif; print([name for name in {HEAVY} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_the_client_loads_no_server_library() -> None:
    done = run(
        f"import sys, nnsight, edif; edif.connect; print([name for name in {SERVER} if name in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_who_has_no_nnsight_is_told_how_to_get_it() -> None:
    done = run("import sys; sys.modules['nnsight'] = None\nimport edif\nedif.connect('http://127.0.0.1:1')")
    assert "ImportError: edif.connect needs nnsight" in done.stderr
    assert "pip install 'nnsight==0.8.1'" in done.stderr
