"""Runs a command as an ordinary account of a host: ``ordinary.py [--no-namespaces] [--reach FOLDER]... COMMAND...``

CI runs the tests as root, sites run the fabric as a user. The command gets the ids of an account that nothing
else on the machine has, no groups and no capabilities: no right of root is kept, not even for the start.

Such an account cannot go where only root may, and there the interpreter or the folder of the tests may lie. So
in a mount namespace of the command's own an empty folder is put over each closed folder on the way, and what the
command needs is bound into it. Every path stays what it is, and nothing on the host changes.

A host without user namespaces is a user namespace in which the kernel is told to allow no further ones. What the
account then meets (``ENOSPC``) is what it meets where ``sysctl user.max_user_namespaces=0``.
"""

import argparse
import ctypes
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edif.walls import kernel

ACCOUNT = 61234
_MS_BIND = 4096
_FORBIDDEN = 77
_NEEDED = (sys.prefix, sys.base_prefix, Path(sys.executable).resolve().parents[1], Path(__file__).parents[2])


@dataclass(frozen=True)
class Host:
    """A host as an ordinary account meets it.

    Attributes:
        folder: where the account may write; closed folders on the way are opened to it.
        namespaces: whether it may make user namespaces.
    """

    folder: Path
    namespaces: bool = True

    def prefix(self, join: int | None = None) -> tuple[str, ...]:
        """What stands before a command that runs there, beside process ``join`` if one is named."""
        options = ["--reach", str(self.folder)]
        options += [] if self.namespaces else ["--no-namespaces"]
        options += [] if join is None else ["--join", str(join)]
        return (sys.executable, __file__, *options)

    def why_not(self) -> str | None:
        """Why no command can run there, if this machine forbids it. Anything else is a fault of ours, and raised."""
        done = subprocess.run([*self.prefix(), "true"], capture_output=True, text=True, check=False)
        assert done.returncode in (0, _FORBIDDEN), done.stderr
        return done.stderr.strip() or None

    def environment(self) -> dict[str, str]:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {"HOME": str(home), "USER": "ordinary", "LOGNAME": "ordinary"}

    def hand_over(self) -> None:
        """Make the folder and what is in it the account's."""
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, ACCOUNT, ACCOUNT, follow_symlinks=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-namespaces", action="store_true")
    parser.add_argument("--reach", action="append", default=[])
    parser.add_argument("--join", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    here = Path.cwd()
    as_root = os.geteuid() == 0
    if as_root:
        os.setgroups([])
    if asked.join is not None:
        _enter(asked.join)
    elif as_root:
        _open_ways([Path(each) for each in (*_NEEDED, *asked.reach)])
    if as_root:
        os.setresgid(ACCOUNT, ACCOUNT, ACCOUNT)
        os.setresuid(ACCOUNT, ACCOUNT, ACCOUNT)
    if asked.no_namespaces and asked.join is None:
        _forbid_namespaces()
    os.chdir(here if os.access(here, os.X_OK) else "/")  # by its path, as it is now
    os.execvp(asked.command[0], asked.command)


def _enter(pid: int) -> None:
    kinds = (("mnt", kernel.CLONE_NEWNS), ("user", kernel.CLONE_NEWUSER))
    other = sum(kind for name, kind in kinds if _namespace("self", name) != _namespace(pid, name))
    libc = ctypes.CDLL(None, use_errno=True)
    if other and libc.setns(os.pidfd_open(pid), other) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _namespace(pid: int | str, name: str) -> Path:
    return Path(f"/proc/{pid}/ns/{name}").readlink()


def _open_ways(paths: list[Path]) -> None:
    paths += [path.resolve() for path in paths]
    if not any(_is_closed(folder) for path in paths for folder in path.parents):
        return  # a container's root may not be let mount anything
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("", "/", kernel.MS_REC | kernel.MS_PRIVATE)
    needed = {path: os.open(path, os.O_PATH) for path in paths}  # of this namespace: others cannot be bound
    for path in needed:
        for folder in reversed(path.parents):
            if folder.exists() and _is_closed(folder):
                kernel.mount("tmpfs", str(folder), kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755")
    for path, fd in needed.items():
        if not path.exists():
            path.mkdir(parents=True)
            kernel.mount(f"/proc/self/fd/{fd}", str(path), _MS_BIND | kernel.MS_REC)
        os.close(fd)


def _is_closed(folder: Path) -> bool:
    return not folder.stat().st_mode & stat.S_IXOTH


def _forbid_namespaces() -> None:
    uid, gid = os.getuid(), os.getgid()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # who was root a moment ago may not write its own maps otherwise
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
    except OSError:
        return  # this host is one
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


if __name__ == "__main__":
    try:
        main()
    except PermissionError as error:
        print(f"This machine does not let the tests do it: {error}", file=sys.stderr)
        sys.exit(_FORBIDDEN)
