"""The walls by themselves, in a bare process: what is left inside, and what is not. Jobs meet them in tests/escape."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edif.walls import host, landlock, seccomp
from edif.walls.host import survey_apart

# One process of one thread, as a fork of the zygote is; prints what `look` returned, or the error's name.
PROGRAM = """
import ctypes, json, os, socket, sys, threading
from pathlib import Path
from edif.walls.cell import Cell, close_in
from edif.walls.seccomp import Filter

folder, scratch, given = (Path(each) for each in sys.argv[1:4])
out = os.dup(1)
close_in(Cell((given,), scratch, 2**20, 2**28, 2**22, 60), Filter(), (out,))
libc = ctypes.CDLL(None, use_errno=True)
try:
    found = eval(sys.argv[4])
except BaseException as error:
    found = type(error).__name__
os.write(out, json.dumps(found, default=str).encode())
os._exit(0)
"""


@pytest.fixture
def inside(tmp_path: Path) -> Callable[[str], Any]:
    """Evaluates an expression in a cell whose one readable folder holds ``given.txt``."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "given.txt").write_text("for the job")
    (tmp_path / "secret.txt").write_text("not for the job")

    def look(expression: str) -> Any:
        folders = [str(tmp_path), str(tmp_path / "scratch"), str(tmp_path / "given")]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *folders, expression],
            env={**os.environ, "SECRET": "in the environment"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return look


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("(given / 'given.txt').read_text()", "for the job"),
        ("len(Path('a.txt').write_text('x' * 1000) * 'x')", 1000),
        ("Path.cwd() == scratch", True),
        ("[(t := threading.Thread(target=print, kwargs={'file': None})).start(), t.join()]", [None, None]),
        ("__import__('decimal').__name__", "decimal"),
        ("len(os.urandom(8))", 8),
        ("os.kill(os.getpid(), 0)", None),
        ("sorted(os.environ)", ["HOME", "LANG", "TMPDIR"]),
        ("Path('/proc/self/status').read_text()[:4]", "Name"),
        ("open('/dev/null', 'w').write('x')", 1),
        ("len(bytearray(2**27))", 2**27),
    ],
)
def test_what_a_job_needs_is_left(inside: Callable[[str], Any], expression: str, found: Any) -> None:
    assert inside(expression) == found


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("(folder / 'secret.txt').read_text()", "PermissionError"),
        ("os.listdir(folder)", "PermissionError"),
        ("(given / 'given.txt').write_text('changed')", "PermissionError"),
        ("Path('/etc/passwd').read_text()", "PermissionError"),
        ("Path(f'/proc/{os.getppid()}/environ').read_bytes()", "PermissionError"),
        ("os.listdir('/proc')", "PermissionError"),
        ("socket.socket(socket.AF_INET, socket.SOCK_STREAM)", "PermissionError"),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "PermissionError"),
        ("socket.socket(socket.AF_UNIX)", "PermissionError"),
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "PermissionError"),
        ("os.fork()", "PermissionError"),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
        ("os.kill(os.getppid(), 0)", "PermissionError"),
        ("os.kill(-1, 0)", "PermissionError"),
        ("os.memfd_create('x')", "PermissionError"),
        ("libc.unshare(0x10000000)", -1),
        ("libc.mount(b'tmpfs', b'.', b'tmpfs', 0, None)", -1),
        ("libc.ptrace(16, os.getppid(), 0, 0)", -1),
        ("libc.syscall(425, 4, None)", -1),  # io_uring_setup
        ("libc.syscall(321, 0, None, 0)", -1),  # bpf
        ("libc.prctl(4, 1, 0, 0, 0)", -1),  # dumpable again
        ("len(bytearray(2**29))", "MemoryError"),
        ("Path('big').write_bytes(bytes(2**21))", "OSError"),
        ("[os.open('/dev/null', os.O_RDONLY) for _ in range(300)]", "OSError"),
        ("os.fstat(3) if out != 3 else os.fstat(4)", "OSError"),
    ],
)
def test_what_a_job_must_not_do_is_refused(inside: Callable[[str], Any], expression: str, found: Any) -> None:
    assert inside(expression) == found


def test_scratch_is_empty_again_outside(inside: Callable[[str], Any], tmp_path: Path) -> None:
    assert inside("Path('left.txt').write_text('x')") == 1
    assert list((tmp_path / "scratch").iterdir()) == []


def test_this_host_has_the_required_walls() -> None:
    """The suite's own precondition: on a host without them the tests above would show nothing."""
    walls = {wall.name: wall for wall in survey_apart()}
    assert walls["landlock"].stands
    assert walls["seccomp"].stands


def test_a_host_without_landlock_or_libseccomp_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    monkeypatch.setattr(seccomp, "_LIBRARY", "libnothing.so")
    walls = [host._landlock(), host._seccomp()]
    assert not any(wall.stands for wall in walls)
    assert all(wall.required and wall.advice for wall in walls)


def test_a_connected_pair_stays_inside(inside: Callable[[str], Any]) -> None:
    assert inside("[(p := socket.socketpair())[0].send(b'x'), p[1].recv(1) == b'x']") == [1, True]
