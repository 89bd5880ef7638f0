"""``edif doctor``: what is missing on this machine, and what to do about it."""

import asyncio
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import typer

from edif.cli.options import AsJson, Config, Data
from edif.cli.output import show_json, show_table
from edif.core.errors import EdifError, SetupError
from edif.launch.data_folder import DataFolder
from edif.settings import load, strange_variables
from edif.walls.host import survey


@dataclass(frozen=True, slots=True)
class Finding:
    """``state`` is ok, warning or missing; ``advice`` is empty when there is nothing to do."""

    what: str
    state: str
    detail: str
    advice: str = ""


# What each part needs: (distribution, lowest tested, first untested).
_NEEDED = {
    "gateway": (("fastapi", "0.120", "0.166"), ("uvicorn", "0.38", "0.55"), ("sqlalchemy", "2.0.44", "2.2")),
    "worker": (("torch", "2.13", "2.14"), ("nnsight", "0.8.1", "0.8.2"), ("transformers", "5.17", "5.23")),
}


def doctor(data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """Say what is missing on this machine and what to do. Exits with 1 if something is."""
    findings = [
        _python(),
        *_packages(),
        _kernel(),
        *_walls(),
        _memory(),
        *_variables(),
        *_folder(config, data),
        *_bucket(config, data),
        _gpu(),
    ]
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        rows = [(finding.what, finding.state, finding.detail, finding.advice) for finding in findings]
        show_table(("what", "state", "found", "what to do"), rows, "")
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "ok", version)
    return Finding("python", "warning", version, "Python 3.11 to 3.13 is tested.")


def _packages() -> Iterator[Finding]:
    for part, needed in _NEEDED.items():
        for name, low, high in needed:
            yield _package(part, name, low, high)


def _package(part: str, name: str, low: str, high: str) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        extra = "server" if part == "gateway" else "worker"
        return Finding(f"{part}: {name}", "missing", "not installed", f"pip install 'edif[{extra}]'")
    if _numbers(low) <= _numbers(version) < _numbers(high):
        return Finding(f"{part}: {name}", "ok", version)
    return Finding(f"{part}: {name}", "missing", version, f"pip install '{name}>={low},<{high}'")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def _kernel() -> Finding:
    release = platform.release()
    if sys.platform != "linux":
        return Finding("kernel", "missing", sys.platform, "A worker needs Linux; the client runs anywhere.")
    return Finding("kernel", "ok", release)


def _walls() -> Iterator[Finding]:
    """What sealed jobs are closed in with; a fabric without users does not need them."""
    for wall in survey() if sys.platform == "linux" else ():
        state = "ok" if wall.stands else "warning"
        without = "Without it this node runs no sealed jobs. " if wall.required else ""
        yield Finding(f"wall: {wall.name}", state, wall.found, "" if wall.stands else without + wall.advice)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if total < 2:
        return Finding("memory", "warning", f"{total:.1f} GiB", "The demo model needs about 1 GiB.")
    return Finding("memory", "ok", f"{total:.1f} GiB")


def _variables() -> Iterator[Finding]:
    for name, meant in strange_variables().items():
        advice = f"Did you mean {meant}?" if meant else "docs/configuration.md lists what can be set."
        yield Finding(f"variable: {name}", "warning", "is no setting, and not looked at", advice)


def _folder(config: Config, data: Data) -> Iterator[Finding]:
    settings = load(config, data=data)
    folder = DataFolder(settings.data.resolve())
    try:
        folder.prepare()
    except SetupError as error:
        yield Finding("data folder", "missing", error.sentence, error.next_step)
        return
    free = shutil.disk_usage(folder.root).free
    yield Finding("data folder", "ok", str(folder.root))
    if free < settings.min_free_bytes:
        yield Finding(
            "free disk", "missing", f"{free / 2**30:.1f} GiB", "Below this mark new jobs are refused."
        )
    else:
        yield Finding("free disk", "ok", f"{free / 2**30:.1f} GiB")


def _bucket(config: Config, data: Data) -> Iterator[Finding]:
    """Whether payloads and results can be kept in S3, if they are to be: tried with a small one."""
    from edif.launch.blobs import open_bucket

    settings = load(config, data=data)
    try:
        blobs = open_bucket(settings, DataFolder(settings.data.resolve()))
        if blobs is None:
            return
        asyncio.run(blobs.try_out())
    except EdifError as error:
        yield Finding("bucket", "missing", error.sentence, error.next_step)
        return
    yield Finding("bucket", "ok", f"{blobs.bucket.url} at {blobs.bucket.endpoint}")
    if blobs.bucket.credentials is None:
        yield Finding(
            "bucket: uploads",
            "warning",
            "no keys of its own: what is left of broken uploads is not swept",
            "Give the bucket a lifecycle rule: AbortIncompleteMultipartUpload after 1 day.",
        )


def _gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", "ok", "none", "Models run on the CPU.")
    return Finding(
        "gpu",
        "warning",
        "nvidia-smi found",
        "Models run on the CPU unless `--device cuda` is set, which was never run on a GPU yet (docs/configuration.md).",
    )
