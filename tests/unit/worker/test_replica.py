"""What a replica's family does to its agent when it goes wrong early; the rest is tested with real jobs, in tests/fabric."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from edif.wire.link import ModelSpec
from edif.worker.replica import Replica, ReplicaCallbacks

START = asyncio.create_subprocess_exec


async def test_a_zygote_that_dies_before_it_hears_what_to_load_is_told_as_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed_at_once(*words: str, **options: Any) -> asyncio.subprocess.Process:
        process = await START(*words, **options)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", killed_at_once)
    failures: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
    callbacks = ReplicaCallbacks(
        loading=lambda _: None,
        ready=lambda *_: None,
        failed=lambda sentence, died: failures.put_nowait((sentence, died)),
    )
    replica = Replica("r1", ModelSpec("m/one"), callbacks, {}, None, tmp_path)
    await replica.start()
    sentence, died = await asyncio.wait_for(failures.get(), 60)
    assert died
    assert "m/one" in sentence
    await replica.stop()
    assert failures.empty()
