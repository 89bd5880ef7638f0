"""The walls by themselves, in a bare process: what is left inside, and what is not. Jobs meet them in tests/escape."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from edif.walls import host, landlock, seccomp
from edif.walls.host import survey_apart
from tests.support.ordinary import Host

# One process of one thread, as a fork of the zygote is; prints what `look` returned, or the error's name.
PROGRAM = """
import ctypes, errno, fcntl, json, os, resource, signal, socket, sys, threading
from pathlib import Path
from edif.walls import kernel, landlock
from edif.walls.cell import Cell, close_in
from edif.walls.seccomp import Filter

folder, scratch, given = (Path(each) for each in sys.argv[1:4])
out = os.dup(1)
sys.path.insert(0, sys.argv[6])
import thread_bomb_without_stacks

def refuse(*_):
    raise OSError(errno.EPERM, "as another host does")

def threads():
    try:
        return thread_bomb_without_stacks.attack({"threads": 20_000, "done": "no end"})
    except AssertionError as error:
        return error.args[0][0]

MEMORY = 2**28
exec(sys.argv[5])
close_in(Cell((given,), scratch, 2**20, MEMORY, 2**22, 60), Filter(), (out,))
libc = ctypes.CDLL(None, use_errno=True)
try:
    found = eval(sys.argv[4])
except BaseException as error:
    found = type(error).__name__
os.write(out, json.dumps(found, default=str).encode())
os._exit(0)
"""


ATTACKS = Path(__file__).parents[2] / "escape" / "attacks"
NO_NAMESPACES = "kernel.unshare = refuse"
NO_MOUNTS = "kernel.mount = refuse"  # as AppArmor does on Ubuntu 24.04: the namespace is to be had, rights in it are not


@pytest.fixture
def inside(tmp_path: Path) -> Callable[..., Any]:
    """Evaluates an expression in a cell whose one readable folder holds ``given.txt``.

    ``host`` is run before, to play another host; ``prefix`` stands before the command.
    """
    (tmp_path / "scratch").mkdir()
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "given.txt").write_text("for the job")
    (tmp_path / "secret.txt").write_text("not for the job")

    def look(expression: str, host: str = "", prefix: tuple[str, ...] = ()) -> Any:
        folders = [str(tmp_path), str(tmp_path / "scratch"), str(tmp_path / "given")]
        done = subprocess.run(
            [*prefix, sys.executable, "-c", PROGRAM, *folders, expression, host, str(ATTACKS)],
            env={**os.environ, "SECRET": "in the environment"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return look


@cache
def _namespaces_stand() -> bool:
    return any(wall.name == "namespaces" and wall.stands for wall in survey_apart())


def test_address_space_may_be_limited_later(inside: Callable[..., Any]) -> None:
    asked = "resource.getrlimit(resource.RLIMIT_AS)[0]"
    before = resource.getrlimit(resource.RLIMIT_AS)[0]
    assert inside(asked, "MEMORY = None") == before != inside(asked)


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("(given / 'given.txt').read_text()", "for the job"),
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
        ("os.open(folder / 'secret.txt', os.O_ACCMODE)", "PermissionError"),  # neither to read nor to write
        ("fcntl.fcntl(os.open(given / 'given.txt', 0), fcntl.F_SETLEASE, fcntl.F_RDLCK)", "PermissionError"),
        ("libc.syscall(436, 100, 200, 2)", -1),  # close_range, with a table of descriptors of its own
        ("Path('/proc/self/net/dev').read_text()", "PermissionError"),
        ("len(bytearray(2**29))", "MemoryError"),
        ("[os.open('/dev/null', os.O_RDONLY) for _ in range(300)]", "OSError"),
        ("os.fstat(3) if out != 3 else os.fstat(4)", "OSError"),
    ],
)
def test_what_a_job_must_not_do_is_refused(inside: Callable[[str], Any], expression: str, found: Any) -> None:
    assert inside(expression) == found


def test_scratch_holds_so_much_and_is_empty_again_outside(inside: Callable[..., Any], tmp_path: Path) -> None:
    if not _namespaces_stand():
        pytest.skip("This host forbids namespaces.")
    assert inside("Path('left.txt').write_text('x' * 1000)") == 1000
    assert inside("Path('big').write_bytes(bytes(2**21))") == "OSError"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("host", ["", NO_NAMESPACES, NO_MOUNTS])
def test_a_process_has_so_many_threads_and_not_more(inside: Callable[..., Any], host: str) -> None:
    """Also root's, whom the kernel does not count; also such as need no memory of their own."""
    alone = os.geteuid() == 0 or (host != NO_NAMESPACES and _namespaces_stand())
    assert 64 < inside("threads()", host) <= (512 if alone else 5_000)


def test_where_threads_count_together_half_of_what_the_account_may_have_is_left(
    inside: Callable[..., Any], tmp_path: Path
) -> None:
    host = Host(tmp_path, namespaces=False)
    if (reason := host.why_not()) is not None:
        pytest.skip(reason)
    host.hand_over()
    others = len(psutil.pids()) if os.geteuid() else 0
    limited = (*host.prefix(), "prlimit", f"--nproc={1_000 + others}:", "--")
    assert 64 < inside("threads()", prefix=limited) < 1_000 / 2 + others + 64


@pytest.mark.parametrize("host", [NO_NAMESPACES, NO_MOUNTS])
def test_scratch_without_a_limit_is_no_scratch(inside: Callable[..., Any], host: str) -> None:
    assert inside("Path('left.txt').write_text('x')", host) == "PermissionError"
    assert inside("os.mkdir('folder')", host) == "PermissionError"
    assert inside("os.listdir('.')", host) == []


@pytest.mark.parametrize("host", ["", NO_NAMESPACES])
def test_a_process_still_dies_with_its_parent(inside: Callable[..., Any], host: str) -> None:
    """What it gives up on the way in could take that with it; the kernel forgets it when ids change."""
    dies = "libc = ctypes.CDLL(None); libc.prctl(1, signal.SIGKILL, 0, 0, 0); load = Filter.load; "
    dies += "told = ctypes.c_int(); "
    dies += "Filter.load = lambda self: (libc.prctl(2, ctypes.byref(told), 0, 0, 0), load(self)); " + host
    assert inside("told.value", dies) == 9


def test_of_an_environment_the_libraries_are_readable(inside: Callable[..., Any], tmp_path: Path) -> None:
    """And not what people put beside them, the fabric's data folder perhaps."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "x.py").write_text("x")
    assert inside("(folder / 'lib' / 'x.py').read_text()", "sys.prefix = folder") == "x"
    assert inside("(folder / 'secret.txt').read_text()", "sys.prefix = folder") == "PermissionError"


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


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (1, "truncation, TCP, device ioctls, signals"),
        (4, "device ioctls, signals"),
        (5, "seccomp: signals"),
        (6, "6"),
    ],
)
def test_a_host_with_an_older_landlock_is_told_what_seccomp_does_alone(
    version: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: version)
    wall = host._landlock()
    assert wall.stands
    assert says in wall.found
    assert ("seccomp" in wall.found) == (version < 6)


@pytest.mark.parametrize("forbidden", ["unshare", "mount"])
def test_namespaces_that_cannot_be_used_do_not_stand(forbidden: str) -> None:
    """A host may give the namespace and refuse every right in it."""
    program = f"""
import errno, json
from edif.walls import host, kernel
def refuse(*_): raise OSError(errno.EACCES, "no")
kernel.{forbidden} = refuse
print(json.dumps([host._namespaces().stands, host._namespaces().required]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, False]


def test_a_connected_pair_stays_inside(inside: Callable[[str], Any]) -> None:
    assert inside("[(p := socket.socketpair())[0].send(b'x'), p[1].recv(1) == b'x']") == [1, True]
