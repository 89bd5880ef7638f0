"""``edif backup`` and ``edif restore``: a data folder in one file, taken while a fabric runs on it.

The file is a zstd-compressed tar: a manifest, the record store as of one moment, the secrets, and the blobs that this moment's
records speak of. Payloads are linked in that moment too, for a job that ends meanwhile loses its own; a result is on disk before its
job is completed.
"""

import asyncio
import hashlib
import io
import os
import secrets
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import msgspec
import zstandard

from edif import __version__
from edif.blobs.revoking import Name
from edif.blobs.store import kept_of, payload_name, result_of
from edif.core import errors
from edif.core.errors import SetupError
from edif.core.job import Job, JobState
from edif.launch.data_folder import DataFolder
from edif.records.migrate import open_store
from edif.records.sqlite import DATABASE_NAME
from edif.records.sqlite_copy import check_store, copy_store

_FORMAT = 1
_MANIFEST = "manifest.json"
_LEVEL = 3
_SECRETS = ("*.token", "*.key", "blobs/store.id", "run/agent.id")
_ALL = 10_000_000
_MANIFEST_BYTES = 2**30
_REVOKED_MEANWHILE = 10
"""How often links to one result may be revoked while a backup is written, and it is still in it."""


class _Manifest(msgspec.Struct):
    """What the archive says of itself. ``sha256`` has the digest of every other member."""

    format: int
    version: str = ""
    taken_at: float = 0.0
    jobs: int = 0
    sha256: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup holds."""

    jobs: int
    blobs: int
    size_bytes: int


def take(folder: DataFolder, target: Path, *, results: bool) -> Contents:
    """Write a backup of the folder to a new file, which is there whole or not at all.

    Args:
        results: whether results are in it too; without them it is small, and finished jobs are told that theirs is gone.

    Raises:
        SetupError: the folder has no record store of its own, or the file exists or cannot be written.
    """
    store = folder.root / DATABASE_NAME
    if not store.is_file():
        raise SetupError(
            errors.BACKUP_IMPOSSIBLE,
            f"The folder {str(folder.root)!r} has no record store of its own.",
            "Name the data folder with --data; records in PostgreSQL are backed up with pg_dump, and blobs/ by copying.",
        )
    if target.exists():
        raise SetupError(errors.BACKUP_IMPOSSIBLE, f"The file {str(target)!r} exists already.")
    try:
        with _scratch(folder, target) as (scratch, payloads):
            records, archive = scratch / DATABASE_NAME, scratch / "archive"
            copy_store(store, records, meanwhile=lambda: _link_all(folder.blobs / "payload", payloads))
            with archive.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                contents = _write(folder, records, payloads, file, results=results)
                file.flush()
                os.fsync(file.fileno())
            os.link(archive, target)  # unlike a rename it never replaces a file
    except (OSError, sqlite3.Error) as error:  # SQLite has words of its own for a full disk
        reason = getattr(error, "strerror", None) or error
        raise SetupError(errors.BACKUP_IMPOSSIBLE, f"The backup cannot be written: {reason}.") from error
    return contents


@contextmanager
def _scratch(folder: DataFolder, target: Path) -> Iterator[tuple[Path, Path]]:
    """A folder beside the target and one beside the payloads, to be written to and linked into while entered.

    They are noted before they are made: what a backup that was killed left, the next one of this data folder removes.
    """
    folder.prepare()
    with folder.hold("backup", wait=True):
        for left in (folder.facts("backup") or {}).get("scratch", ()):
            shutil.rmtree(left, ignore_errors=True)
        token = secrets.token_hex(8)
        made = (target.with_name(f".{target.name}.{token}"), folder.blobs / f"backup-{token}")
        folder.note("backup", {"scratch": [str(path) for path in made]})
        try:
            for path in made:
                path.mkdir(mode=0o700)
            yield made
        finally:
            for path in made:
                shutil.rmtree(path, ignore_errors=True)


def _link_all(source: Path, target: Path) -> None:
    for path in source.glob("*"):  # no folder yet if no gateway ever ran here
        with suppress(FileNotFoundError):  # its job has ended, and is recorded as such
            os.link(path, target / path.name)


def _write(folder: DataFolder, records: Path, payloads: Path, file: IO[bytes], *, results: bool) -> Contents:
    jobs, unfinished, completed = asyncio.run(_jobs_worth(records))
    digests: dict[str, str] = {}
    size = 0
    with (
        zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file, closefd=False) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        members = [(DATABASE_NAME, [records])]
        for pattern in _SECRETS:
            members += [(str(path.relative_to(folder.root)), [path]) for path in folder.root.glob(pattern)]
        members += [(f"blobs/{payload_name(job.id)}", [payloads / job.id]) for job in unfinished]
        wanted: list[tuple[Name, Job]] = [(result_of, job) for job in completed if results]
        used = {used for job in unfinished for used in job.extras.uses}
        keepers = [job for job in completed if job.kept_bytes is not None and (results or job.id in used)]
        wanted += [(kept_of, job) for job in keepers]
        members += [(f"blobs/{name(job)}", _places(folder.blobs, name, job)) for name, job in wanted]
        for name, paths in members:
            for path in paths:
                with suppress(FileNotFoundError):  # retired meanwhile, or renamed
                    digests[name], added = _add(tar, name, path)
                    size += added
                    break
        text = msgspec.json.encode(_Manifest(_FORMAT, __version__, time.time(), jobs, digests))
        tar.addfile(_info(_MANIFEST, len(text)), io.BytesIO(text))
    return Contents(jobs, sum(name.startswith("blobs/") for name in digests), size)


def _places(blobs: Path, name: Name, job: Job) -> list[Path]:
    """Where the job's blob may lie by now, whatever was revoked since the records were copied: upwards, as it is renamed."""
    revocations = range(max(job.revocations - 1, 0), job.revocations + _REVOKED_MEANWHILE)
    return [blobs / name(replace(job, revocations=each)) for each in revocations]


async def _jobs_worth(records: Path) -> tuple[int, list[Job], list[Job]]:
    """How many jobs there are, those that need their payload to run, and those whose result may be fetched."""
    store = await open_store(records.parent)
    try:
        jobs = await store.jobs(limit=_ALL)
    finally:
        await store.close()
    unfinished = [job for job in jobs if not job.state.final]
    return len(jobs), unfinished, [job for job in jobs if job.state is JobState.COMPLETED]


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info


def _add(tar: tarfile.TarFile, name: str, path: Path) -> tuple[str, int]:
    """The file's digest and size in bytes.

    Raises:
        FileNotFoundError: it is not there; nothing was written.
    """
    with path.open("rb") as file:
        reader, size = _Hashing(file), os.fstat(file.fileno()).st_size
        tar.addfile(_info(name, size), reader)
        return reader.digest.hexdigest(), size


class _Hashing:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def restore(source: Path, folder: DataFolder) -> Contents:
    """Fill an empty or new data folder from a backup; on an error it is left empty.

    Raises:
        SetupError: the file is no whole backup, or the folder is not empty.
    """
    root = folder.root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise SetupError(
            errors.RESTORE_IMPOSSIBLE,
            f"{str(root)!r} is not an empty folder.",
            "Restore into a new one, or move this one away first.",
        )
    if not source.is_file():
        raise SetupError(
            errors.RESTORE_IMPOSSIBLE,
            f"There is no file {str(source)!r}.",
            "Name one that `edif backup` wrote.",
        )
    unpacked = root.with_name(f".{root.name}.{secrets.token_hex(4)}")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        unpacked.mkdir(mode=0o700)
        contents = _unpack(source, unpacked)
        check_store(unpacked / DATABASE_NAME)
        if root.exists():
            root.rmdir()
        unpacked.rename(root)
    except OSError as error:
        raise SetupError(
            errors.RESTORE_IMPOSSIBLE,
            f"{str(source)!r} cannot be restored into {str(root)!r}: {error.strerror or error}.",
            "Free space, or restore into a new folder that you may write to.",
        ) from error
    except (tarfile.TarError, zstandard.ZstdError, ValueError) as error:
        raise SetupError(
            errors.RESTORE_IMPOSSIBLE, f"The file {str(source)!r} is no whole backup: {error}."
        ) from error
    finally:
        _remove(unpacked)
    return contents


def _unpack(source: Path, root: Path) -> Contents:
    found: dict[str, str] = {}
    manifest = _Manifest(format=0)
    size = 0
    with _opened(source) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is None:
                raise ValueError(f"it holds {member.name[:80]!r}, which is no file")
            if member.name == _MANIFEST:
                if member.size > _MANIFEST_BYTES:
                    raise ValueError(f"its manifest claims {member.size} bytes")
                manifest = msgspec.json.decode(file.read(), type=_Manifest)
            else:
                found[member.name] = _unpack_one(_inside(root, member.name), file)
                size += member.size
    if manifest.format != _FORMAT:
        raise ValueError(f"its format is {manifest.format}, and this release reads {_FORMAT}")
    if found != manifest.sha256:
        wrong = sorted(set(found.items()) ^ set(manifest.sha256.items()))
        raise ValueError(f"{wrong[0][0][:80]!r} is not as it was written")
    if DATABASE_NAME not in found:
        raise ValueError("it holds no record store")
    return Contents(manifest.jobs, sum(name.startswith("blobs/") for name in found), size)


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    with (
        source.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file) as plain,
        tarfile.open(fileobj=plain, mode="r|") as tar,
    ):
        yield tar


def _inside(root: Path, name: str) -> Path:
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ValueError(f"{name[:80]!r} leads out of the folder")
    return path


def _unpack_one(path: Path, file: IO[bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        while data := file.read(1 << 20):
            digest.update(data)
            target.write(data)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
