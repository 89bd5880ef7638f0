"""A program of a person who is connected with ``edif.connect``: ``connected.py PLAN``.

The plan (JSON) names the fabric's ``url`` and ``data`` folder, the user's ``key`` and ``other_key``, the ``model``, how many bytes
are downloaded while the line is cut (``cut_download_bytes``), and ``out``, where it is written for each scenario what went wrong: nothing, or
a traceback. Several real clients would take minutes: all scenarios run here, one after the other.
"""

import asyncio
import copy
import dataclasses
import inspect
import io
import json
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub.hf_api
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from nnsight import TransformersModel
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.modeling.mixins.remotable import Remotable
from nnsight.schema.config import CONFIG
from nnsight.schema.response import Status

import edif
from edif.client import checks
from edif.client.download import Download
from edif.core import errors
from edif.core.errors import EdifError
from edif.wire.kept import Place
from tests.support.cut_line import CutLine

PROMPT = "the cat sat on the mat"
MIB = 2**20
PATIENCE_S = 180.0


class Here:
    """What the scenarios have in common."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.url, self.key, self.other_key = plan["url"], plan["key"], plan["other_key"]
        self.data = Path(plan["data"])
        self.cut_download_bytes = plan["cut_download_bytes"]
        self.model = TransformersModel(plan["model"], task="text-generation")

    def connect(self, url: str | None = None) -> edif.Connection:
        return edif.connect(url or self.url, self.key)

    def trace(self, **options: Any) -> Any:
        """A small trace; the tracer, and what it saved if it was waited for."""
        model, hidden = self.model, None
        with model.trace(PROMPT, remote=True, **options) as tracer:
            hidden = model.transformer.h[0].output.save()
        return tracer, hidden

    def large(self, numbers: int) -> torch.Tensor:
        model, numbers_drawn = self.model, None
        with model.trace(PROMPT, remote=True):
            numbers_drawn = torch.rand(numbers, generator=torch.Generator().manual_seed(7)).save()
        return numbers_drawn  # noqa: RET504 - a trace's block is not run here

    def slow(self, seconds: float, **options: Any) -> Any:
        model, hidden = self.model, None
        with model.trace(PROMPT, remote=True, **options) as tracer:
            time.sleep(seconds)
            hidden = model.transformer.h[0].output.save()
        return tracer, hidden

    def jobs(self) -> list[dict[str, Any]]:
        answer = httpx.get(
            f"{self.url}/edif/v1/jobs", headers={"ndif-api-key": self.key}, params={"limit": 1000}
        )
        return list(answer.json()["jobs"])

    def stored_bytes(self) -> float:
        """Of the quota, so much is used."""
        answer = httpx.get(f"{self.url}/edif/v1/quota", headers={"ndif-api-key": self.key})
        return float(answer.json()["user"]["stored_bytes"]["used"])

    def kill_gateway(self) -> None:
        facts = json.loads((self.data / "run" / "gateway.json").read_text())
        os.kill(int(facts["pid"]), signal.SIGKILL)


def drawn(numbers: int) -> torch.Tensor:
    """What :meth:`Here.large` brings."""
    return torch.rand(numbers, generator=torch.Generator().manual_seed(7))


@contextmanager
def told(code: errors.ErrorCode, *words: str) -> Iterator[None]:
    """The block fails with this code, and its sentence has these words."""
    with pytest.raises(EdifError) as caught:
        yield
    assert caught.value.kind is code, caught.value
    for word in words:
        assert word in str(caught.value), caught.value


@contextmanager
def compressing(value: bool) -> Iterator[None]:
    before, CONFIG.API.COMPRESS = CONFIG.API.COMPRESS, value
    try:
        yield
    finally:
        CONFIG.API.COMPRESS = before


# -- what comes is what the stock client gets --------------------------------------------------------------
def values_are_those_of_the_stock_client(here: Here) -> None:
    _, stock = here.trace()
    for compress in (True, False):
        with compressing(compress), here.connect():
            tracer, hidden = here.trace()
            assert torch.equal(hidden, stock)
            assert tracer.backend.meta["attempts"] == 1
            assert tracer.backend.job.cost.result_bytes == tracer.backend.meta["result_bytes"]
            for numbers in (MIB // 8, 5 * MIB):  # one piece, and several
                assert torch.equal(here.large(numbers), drawn(numbers))


def a_session_is_one_job(here: Here) -> None:
    with here.connect():
        before = len(here.jobs())
        model = here.model
        first = second = None
        with model.session(remote=True):
            with model.trace(PROMPT):
                first = model.transformer.h[0].output.save()
            with model.trace(PROMPT):
                second = (model.transformer.h[0].output + first).save()
        assert torch.equal(second, 2 * first)
        assert len(here.jobs()) == before + 1


def tensors_can_be_written(here: Here) -> None:
    with compressing(False), here.connect():
        tensor = here.large(5 * MIB)
        tensor.mul_(2)
        assert torch.equal(tensor, 2 * drawn(5 * MIB))


def a_failing_trace_raises_as_nnsight_does(here: Here) -> None:
    with here.connect():
        model = here.model
        with pytest.raises(RemoteError, match="on purpose"), model.trace(PROMPT, remote=True) as tracer:  # noqa: PT012 - the block is the trace
            model.transformer.h[0].output.save()
            raise ValueError("on purpose")
        assert tracer.backend.meta["attempts"] == 1


def _noise(here: Here, dtype: str, mib: int) -> tuple[Any, Any]:
    model, values, beginning = here.model, None, None
    with model.trace(PROMPT, remote=True) as tracer:
        values = (
            torch.randn(mib, 2**20, generator=torch.Generator().manual_seed(7))
            .to(getattr(torch, dtype))
            .save()
        )
        beginning = values[:, :5].save()
    return tracer.backend, {"values": values, "beginning": beginning}


def _drawn_noise(dtype: str, mib: int) -> torch.Tensor:
    return torch.randn(mib, 2**20, generator=torch.Generator().manual_seed(7)).to(getattr(torch, dtype))


def _on_a_line_of(connection: edif.Connection, bytes_per_s: float) -> None:
    """As if the last downloads had been so fast."""
    for _ in range(9):
        connection._link_speed.note(2 * MIB, 2 * MIB / bytes_per_s)


def packed_results_are_those_that_are_not(here: Here) -> None:
    with here.connect() as connection:
        for dtype, mib in (("bfloat16", 12), ("float32", 6)):
            _on_a_line_of(connection, 1e5)
            backend, read = _noise(here, dtype, mib)
            assert backend.meta["packed"] is True
            size = mib * 2**20 * getattr(torch, dtype).itemsize
            assert backend.meta["result_bytes"] < size / 1.15
            assert torch.equal(read["values"], _drawn_noise(dtype, mib))
            assert torch.equal(read["beginning"], read["values"][:, :5])
            read["values"].mul_(2)
            assert torch.equal(read["beginning"], read["values"][:, :5]), "what shared memory shares it"
        _on_a_line_of(connection, 1e5)
        assert "packed" not in _noise(here, "bfloat16", 1)[0].meta, "small ones need it not"
        with compressing(False):
            assert "packed" not in _noise(here, "bfloat16", 12)[0].meta
        _on_a_line_of(connection, 1e12)
        assert "packed" not in _noise(here, "bfloat16", 12)[0].meta


def a_packed_result_that_is_small_comes_at_once(here: Here) -> None:
    """What a compressor makes little of: it is sent on the status socket."""
    model, values = here.model, None
    with here.connect() as connection:
        _on_a_line_of(connection, 100)
        with model.trace(PROMPT, remote=True) as tracer:
            values = torch.arange(2**21).save()
        meta = tracer.backend.meta
        assert meta["packed"] is True
        assert meta["result_bytes"] < 100_000
        assert torch.equal(values, torch.arange(2**21))


def the_stock_client_is_told_how_a_packed_result_is_read(here: Here) -> None:
    with here.connect() as connection:
        _on_a_line_of(connection, 1e5)
        backend, _ = _noise(here, "bfloat16", 12)
        job = edif.job(backend.job_id)
        assert torch.equal(job.result()["values"], _drawn_noise("bfloat16", 12))
    stock = RemoteBackend(here.model.to_model_key(), blocking=False, job_id=job.id)
    with pytest.raises(RemoteError, match=r"edif\.job\(ID\)\.result\(\)"):
        stock.poll()


def what_is_asked_to_be_rounded_is_rounded_and_said(here: Here) -> None:
    def traced() -> tuple[Any, dict[str, Any]]:
        model, hidden, wide, count, text = here.model, None, None, None, None
        with model.trace(PROMPT, remote=True) as tracer:
            hidden = model.transformer.h[0].output.save()
            wide = torch.linspace(0, 1, 2**20).reshape(2**10, 2**10)[:, ::2].save()
            count = torch.arange(10).save()
            text = "text".save()
        return tracer.backend, {"hidden": hidden, "wide": wide, "count": count, "text": text}

    _, exact = traced()
    assert exact["hidden"].dtype == torch.float32
    said = io.StringIO()
    for compress in (True, False):
        with compressing(compress), edif.connect(here.url, here.key, rounding="bfloat16"):
            with redirect_stderr(said):
                backend, read = traced()
            for name in ("hidden", "wide"):
                assert read[name].dtype == torch.float32
                assert torch.equal(read[name], exact[name].to(torch.bfloat16).float())
                assert not torch.equal(read[name], exact[name])
            assert torch.equal(read["count"], exact["count"])
            assert read["text"] == "text"
            assert (backend.meta["rounding"], backend.meta["rounded_tensors"]) == ("bfloat16", 2)
            again = edif.job(backend.job_id)
            with redirect_stderr(said):
                assert torch.equal(again.result()["wide"], read["wide"])
                again.result()
    assert said.getvalue().count("2 tensors of this result travelled as bfloat16") == 4, (
        "once for each that came"
    )
    with edif.connect(here.url, here.key, rounding="float32") as narrow, here.connect() as exactly:
        assert narrow is not exactly
        backend, read = traced()
        assert "rounding" not in backend.meta
        assert torch.equal(read["wide"], exact["wide"])
    before = _surroundings()
    for wrong in ("int8", "bf16", ""):
        with told(errors.CONFIG_INVALID, repr(wrong), "'bfloat16'"):
            edif.connect(here.url, here.key, rounding=wrong)
    assert _surroundings() == before


def arrays_are_arrays_for_every_client(here: Here) -> None:
    def traced() -> Any:
        model, array = here.model, None
        with model.trace(PROMPT, remote=True):
            array = torch.linspace(0, 1, 2**18).reshape(2**9, 2**9).numpy().T.save()
        return array  # noqa: RET504 - a trace's block is not run here

    stock = traced()
    with edif.connect(here.url, here.key, rounding="bfloat16"):
        connected = traced()
    for array in (stock, connected):
        assert type(array) is np.ndarray
        assert np.array_equal(array, torch.linspace(0, 1, 2**18).reshape(2**9, 2**9).numpy().T)
        array += 1


# -- connecting, and leaving --------------------------------------------------------------------------------
def _surroundings() -> list[Any]:
    return [
        Remotable._remote_backend,
        CONFIG.API.HOST,
        CONFIG.API.APIKEY,
        os.environ.get("HF_ENDPOINT"),
        os.environ.get("HF_TOKEN"),
        constants.ENDPOINT,
        constants.HUGGINGFACE_CO_URL_TEMPLATE,
        constants.HF_URL_HOSTS,
        huggingface_hub.hf_api.api.endpoint,
    ]


def everything_is_put_back(here: Here) -> None:
    before = _surroundings()
    with CutLine(here.url) as line:
        with here.connect() as outer:
            outside = _surroundings()
            with edif.connect(line.url, here.key):
                changed = _surroundings()
                assert changed[5] == huggingface_hub.hf_api.api.endpoint == f"{line.url}/hub"
                assert huggingface_hub.HfApi().endpoint == f"{line.url}/hub"
                assert (
                    TransformersModel("tiny/gpt2", task="text-generation").to_model_key()
                    == here.model.to_model_key()
                )
            assert _surroundings() == outside
            assert not outer.closed
        assert _surroundings() == before
        first, second = here.connect(), edif.connect(line.url, here.key)
        with here.connect() as third:
            first.close()
            second.close()
            assert here.url == CONFIG.API.HOST, "the last one is in use whatever becomes of others"
            assert here.connect() is third, "as when a notebook's cell is run again"
        assert not third.closed, "it is still held by who asked for it last"
        third.close()
        assert _surroundings() == before
    assert isinstance(here.trace()[0].backend, RemoteBackend)
    with told(errors.NOT_CONNECTED):
        edif.jobs()


def address_and_key_come_from_the_environment(here: Here) -> None:
    kept = {name: os.environ.pop(name, None) for name in ("NDIF_HOST", "NDIF_API_KEY")}
    try:
        with told(errors.FABRIC_UNREACHABLE, "No fabric is named", "EDIF_URL"):
            edif.connect()
        os.environ |= {"NDIF_HOST": here.url, "NDIF_API_KEY": here.key}
        with edif.connect() as connection:
            assert (connection.url, connection.user) == (here.url, "ada")
        os.environ |= {"EDIF_URL": f"{here.url}/", "EDIF_API_KEY": here.other_key}
        with edif.connect() as connection:
            assert (connection.url, connection.user) == (here.url, "eve")
    finally:
        for name in ("EDIF_URL", "EDIF_API_KEY"):
            os.environ.pop(name, None)
        os.environ |= {name: value for name, value in kept.items() if value is not None}


def wrong_addresses_and_keys_are_told(here: Here) -> None:
    before = _surroundings()
    with told(errors.FABRIC_UNREACHABLE, "'lab.example'", "http://"):
        edif.connect("lab.example", here.key)
    with CutLine(here.url) as line:
        nobody = line.url
    with told(errors.FABRIC_UNREACHABLE, f"No fabric answers at {nobody}", "ask your operator"):
        edif.connect(nobody, here.key)
    with told(errors.FABRIC_UNREACHABLE, "No fabric answers at"):
        edif.connect(f"{here.url}/edif/v1/health", here.key)
    with told(errors.KEY_UNKNOWN, here.key[:8], "typing errors"):
        edif.connect(here.url, here.key[:-4] + "0000")
    host_key = os.environ.pop("NDIF_API_KEY", None)
    try:
        with told(errors.KEY_MISSING, "edif.connect(url, key)"):
            edif.connect(here.url)
    finally:
        if host_key is not None:
            os.environ["NDIF_API_KEY"] = host_key
    assert _surroundings() == before


def other_versions_are_told(here: Here) -> None:
    real = checks._installed
    try:
        checks._installed = lambda name: {"nnsight": "0.9.2"}.get(name, real(name))
        with told(errors.CLIENT_UNSUPPORTED, "0.9.2", f"pip install 'nnsight=={real('nnsight')}'"):
            here.connect()
        checks._installed = lambda name: {"torch": "1.0"}.get(name, real(name))
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            here.connect().close()
        assert [each.category for each in heard] == [edif.VersionsDiffer]
        assert "torch 1.0 here" in str(heard[0].message)
    finally:
        checks._installed = real


# -- jobs and batches ---------------------------------------------------------------------------------------
def jobs_can_be_left_and_found_again(here: Here) -> None:
    with here.connect():
        tracer, _ = here.slow(1.0, blocking=False)
        job = tracer.backend.job
        assert tracer.backend.status is Status.RECEIVED
        assert tracer.backend() is None, "nnsight's own way of polling"
        assert job.cost is None
        assert job.id in [each.id for each in edif.jobs()]
    with here.connect():
        again = edif.job(job.id)
        assert again.wait(PATIENCE_S) is again
        assert again.status == "COMPLETED"
        assert again.cost.seconds >= 1.0
        assert torch.equal(again.result()["hidden"], here.trace()[1])
        assert again.result() is again.result(), "downloaded once"
        with here.model.trace(PROMPT, remote=True, blocking=False, job_id=job.id) as tracer:
            here.model.transformer.h[0].output.save()
        assert torch.equal(tracer.backend.poll()["hidden"], again.result()["hidden"])
        assert tracer.backend.status is Status.COMPLETED
        with told(errors.JOB_UNKNOWN):
            edif.job("j000")
    with told(errors.NOT_CONNECTED, "was closed"):
        again.cancel()
    with edif.connect(here.url, here.other_key), told(errors.JOB_UNKNOWN):
        edif.job(job.id)


def jobs_can_be_cancelled(here: Here) -> None:
    with here.connect():
        tracer, _ = here.slow(PATIENCE_S, blocking=False)
        job = tracer.backend.job
        with pytest.raises(TimeoutError, match=job.id):
            job.wait(timeout=0.5)
        job.cancel()
        job.wait(PATIENCE_S)
        assert job.status == "ERROR"
        assert "[cancelled]" in job.description
        with pytest.raises(RemoteError, match=r"\[cancelled\]"):
            job.result()
        with told(errors.STATE_CONFLICT):
            job.cancel()


def jobs_can_be_awaited(here: Here) -> None:
    async def both() -> list[Any]:
        jobs = [here.slow(0.3, blocking=False)[0].backend.job for _ in range(2)]
        return await asyncio.gather(*map(_awaited, jobs))

    async def _awaited(job: edif.Job) -> Any:
        return await job

    with here.connect():
        _, expected = here.trace()
        for result in asyncio.run(both()):
            assert torch.equal(result["hidden"], expected)


def a_batch_sets_its_names_when_it_ends(here: Here) -> None:
    model = here.model
    with here.connect():
        first = second = None
        with edif.batch() as batch:
            with model.trace("the cat", remote=True):
                first = model.transformer.h[0].output.save()
            with model.trace("the dog ran", remote=True):
                second = model.transformer.h[0].output.save()
            assert first is None
        assert [tuple(each.shape[:2]) for each in (first, second)] == [(1, 2), (1, 3)]
        with edif.batch() as batch:
            for length in range(1, 9):
                with model.trace("the " * length, remote=True):
                    hidden = model.transformer.h[0].output.save()
        shapes = [result["hidden"].shape[1] for result in batch.results]
        assert shapes == list(range(1, 9))
        assert hidden.shape[1] == 8
        assert len({job.id for job in batch.jobs}) == 8
        _, alone = here.trace()
        assert alone is not None, "after the block traces wait again"


def a_batch_can_be_awaited(here: Here) -> None:
    model = here.model

    async def main() -> Any:
        hidden = None
        async with edif.batch() as batch:
            with model.trace(PROMPT, remote=True):
                hidden = model.transformer.h[0].output.save()
        return hidden, batch.results

    with here.connect():
        hidden, results = asyncio.run(main())
        assert torch.equal(hidden, results[0]["hidden"])


def what_fails_in_a_batch_is_raised_at_its_end(here: Here) -> None:
    model = here.model
    with here.connect():
        for failing in (1, 2):
            hidden = None
            with pytest.raises((RemoteError, ExceptionGroup)) as caught, edif.batch() as batch:  # noqa: PT012
                for number in range(3):
                    with model.trace(PROMPT, remote=True):
                        if number < failing:
                            raise ValueError(f"number {number}")
                        hidden = model.transformer.h[0].output.save()
            raised = getattr(caught.value, "exceptions", (caught.value,))
            assert all(f"number {number}" in str(error) for number, error in enumerate(raised))
            assert len(raised) == failing
            assert [result is None for result in batch.results] == [number < failing for number in range(3)]
            assert hidden is not None
        with pytest.raises(KeyError, match="the block's own"), edif.batch():  # noqa: PT012
            here.trace()
            raise KeyError("the block's own")


def links_can_be_revoked_while_the_owner_downloads(here: Here) -> None:
    """The owner's download goes on with a fresh link; who was given the one before has nothing any more."""
    model, numbers_drawn = here.model, None
    with compressing(False), here.connect():
        with model.trace(PROMPT, remote=True, blocking=False) as tracer:
            numbers_drawn = torch.rand(5 * MIB, generator=torch.Generator().manual_seed(7)).save()
        assert numbers_drawn is None
        job = tracer.backend.job.wait(PATIENCE_S)
        given = job._final.data
        assert httpx.get(given).is_success
        begin = Download.first

        def begun_and_revoked(download: Download) -> memoryview:
            first = begin(download)
            job.revoke_links()
            return first

        Download.first = begun_and_revoked
        try:
            assert torch.equal(job.result()["numbers_drawn"], drawn(5 * MIB))
        finally:
            Download.first = begin
        answer = httpx.get(given)
        assert (answer.status_code, answer.json()["code"]) == (403, errors.LINK_INVALID.code)
        assert torch.equal(edif.job(job.id).result()["numbers_drawn"], drawn(5 * MIB))


def results_can_be_deleted(here: Here) -> None:
    with here.connect():
        tracer, _ = here.trace(blocking=False)
        job = tracer.backend.job
        _, expected = here.trace()
        assert torch.equal(job.result()["hidden"], expected)
        used = here.stored_bytes()
        for _ in range(2):
            job.delete_result()
        assert used - here.stored_bytes() == job.cost.result_bytes
        assert torch.equal(job.result()["hidden"], expected), "what was downloaded stays"
        again = edif.job(job.id)
        with pytest.raises(RemoteError, match=r"\[result_gone\]"):
            again.result()
        with told(errors.RESULT_GONE):
            job.revoke_links()
        tracer, _ = here.slow(PATIENCE_S, blocking=False)
        for refused in (tracer.backend.job.delete_result, tracer.backend.job.revoke_links):
            with told(errors.STATE_CONFLICT):
                refused()
        tracer.backend.job.cancel()
    with told(errors.NOT_CONNECTED):
        job.delete_result()


# -- what breaks ----------------------------------------------------------------------------------------------
def a_trace_outlives_the_gateway(here: Here) -> None:
    _, expected = here.trace()
    with here.connect():
        before = len(here.jobs())
        tracer, _ = here.slow(2.0, blocking=False)
        job = tracer.backend.job
        killer = threading.Thread(target=_kill_when_running, args=(here, job))
        killer.start()
        assert torch.equal(job.result()["hidden"], expected)
        killer.join()
        assert len(here.jobs()) == before + 1
        assert here.jobs()[0]["attempts"] == 1


def _kill_when_running(here: Here, job: edif.Job) -> None:
    while job.status != "RUNNING":
        assert not job.done, "it ended before the gateway was killed"
        time.sleep(0.01)
    here.kill_gateway()


def a_trace_that_meets_no_gateway_is_sent_once(here: Here) -> None:
    _, expected = here.trace()
    with here.connect():
        before = len(here.jobs())
        here.kill_gateway()
        _, hidden = here.trace()
        assert torch.equal(hidden, expected)
        assert len(here.jobs()) == before + 1


def an_answer_that_is_lost_does_not_double_the_job(here: Here) -> None:
    """The line is cut whenever anything comes down it: first of all the gateway's word that it has the job."""
    _, expected = here.trace()
    with CutLine(here.url) as line, here.connect(line.url):
        before = len(here.jobs())
        line.cut_next(3)
        _, hidden = here.trace()
        assert torch.equal(hidden, expected)
        assert line.cuts >= 3
        assert len(here.jobs()) == before + 1


def a_download_goes_on_where_it_was_cut(here: Here) -> None:
    numbers = here.cut_download_bytes // 4
    cuts = 10
    for compress in (False, True):
        with CutLine(here.url, here.cut_download_bytes // (cuts + 2), cuts) as line, compressing(compress):
            with here.connect(line.url):
                began = line.passed
                result = here.large(numbers)
                travelled = line.passed - began
            assert torch.equal(result, drawn(numbers))
            size = here.jobs()[0]["result_bytes"]
            print(f"compress={compress}: {size} bytes, {line.cuts} cuts, {travelled - size} more travelled")
            assert line.cuts >= cuts - 2
            # What the kernel holds of each connection when it is reset travels again; of a large result that is less than 1 %.
            assert travelled - size <= max(size // 100, line.cuts * MIB)


def a_refused_link_is_renewed(here: Here) -> None:
    with here.connect() as connection:
        tracer, _ = here.trace(blocking=False)
        job = tracer.backend.job.wait()
        answer = httpx.get(f"{here.url}/response/{job.id}", headers={"ndif-api-key": here.key}).json()
        expired = answer["data"].replace("expires=1", "expires=2")
        final = job._final.model_copy(update={"data": expired})
        assert torch.equal(connection.fetch(final, show=False)["hidden"], job.result()["hidden"])


def a_damaged_result_is_told(here: Here) -> None:
    with compressing(False), here.connect() as connection:
        job = edif.job(here.jobs()[0]["id"])
        final = job._final.model_copy(update={"meta": {**job._final.meta, "result_sha256": "0" * 64}})
        with told(errors.RESULT_DAMAGED, "checksum"):
            connection.fetch(final, show=False)
        assert job.result()


# -- values that stay on the fabric -------------------------------------------------------------------------
def keep_numbers(here: Here, *shape: int) -> Any:
    """A handle of the numbers that :func:`numbered` gives."""
    model, kept = here.model, None
    with model.trace(PROMPT, remote=True):
        kept = edif.keep(torch.rand(shape, generator=torch.Generator().manual_seed(7)))
    return kept  # noqa: RET504 - a trace's block is not run here


def numbered(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(7))


def kept_values_come_when_they_are_asked_for(here: Here) -> None:
    model = here.model
    _, hidden = here.trace()
    with here.connect():
        kept = many = None
        with model.trace(PROMPT, remote=True) as tracer:
            kept = edif.keep(model.transformer.h[0].output)
            many = edif.keep({"bf16": [kept.to(torch.bfloat16).mT, kept > 0], "said": "also"})
        assert isinstance(kept, edif.Kept)
        assert (kept.shape, kept.dtype, kept.job) == (hidden.shape, hidden.dtype, tracer.backend.job.id)
        assert torch.equal(kept.tensor(), hidden)
        assert torch.equal(many["bf16"][0].tensor(), hidden.to(torch.bfloat16).mT)
        assert torch.equal(many["bf16"][1][0], hidden[0] > 0)
        assert many["said"] == "also"
        assert torch.equal(asyncio.run(_asked(kept)), hidden)
        again = edif.job(kept.job).result()
        assert torch.equal(again["kept"][:, 1], hidden[:, 1])
        meta = tracer.backend.meta
        assert meta["kept_bytes"] >= kept.nbytes
        assert meta["result_bytes"] < 5000


async def _asked(kept: edif.Kept) -> torch.Tensor:
    return await kept


def a_slice_brings_hardly_more_than_itself(here: Here) -> None:
    shape = (12, 500, 256)
    whole = numbered(*shape)
    with CutLine(here.url) as line, here.connect(line.url):
        kept = keep_numbers(here, *shape)
        for index in (
            (7,),
            (slice(3, 5),),
            (..., slice(0, 8)),
            (slice(None), -1),
            (slice(None, None, 4), slice(10, 20), None, slice(200, 256)),
            (0, 0, 0),
            (slice(5, 5),),
        ):
            expected = whole[index]
            before = line.passed
            found = kept[index]
            travelled = line.passed - before
            assert torch.equal(found, expected), index
            wanted = expected.numel() * 4
            print(f"{index}: {wanted} bytes wanted, {travelled} travelled")
            if index != (..., slice(0, 8)):  # 6,000 pieces of 32 bytes are not asked for one by one
                assert travelled <= wanted * 1.1 + 40_000, index
        with pytest.raises(IndexError):
            kept[12]
        with pytest.raises(TypeError, match="integers, slices"):
            kept[[0, 1]]
        assert [torch.equal(row, expected) for row, expected in zip(kept, whole, strict=True)] == [True] * 12


def a_kept_value_is_used_without_travelling(here: Here) -> None:
    model = here.model
    with here.connect():
        kept = plain = patched = expected = changed = None
        with model.trace("the dog sat on the mat", remote=True):
            plain = model.transformer.h[0].output.clone().save()
        with model.trace("the dog sat on the mat", remote=True):
            kept = edif.keep(model.transformer.h[0].output)
        with model.trace(PROMPT, remote=True):
            model.transformer.h[0].output[:] = plain
            expected = model.lm_head.output.save()
        with model.trace(PROMPT, remote=True):
            model.transformer.h[0].output[:] = kept
            kept.mul_(0)  # a copy of this job's own
            patched = model.lm_head.output.save()
        assert here.jobs()[0]["payload_bytes"] < 5000
        assert torch.equal(patched, expected)
        assert torch.equal(kept.tensor(), plain), "what one job does to it, no other sees"
        with model.trace(PROMPT, remote=True):
            changed = edif.keep(kept * 2)
        assert torch.equal(changed.tensor(), plain * 2)
        for wrong in (lambda: torch.add(kept, 1), lambda: kept + 1, lambda: bool(kept), lambda: kept < 2):
            with pytest.raises(TypeError, match="would need a value that is kept"):
                wrong()
        with model.trace(PROMPT, remote=True):
            nothing = edif.keep(model.transformer.h[0].output[:0])
        with model.trace(PROMPT, remote=True):
            one = (nothing.sum() + 1).save()
        assert one == 1


def a_handle_goes_through_copies_files_and_connections(here: Here) -> None:
    model = here.model
    with here.connect():
        kept = keep_numbers(here, 100)
    copies = [copy.deepcopy({"a": kept})["a"], pickle.loads(pickle.dumps(kept)), kept]
    for each in copies[:2]:
        with told(errors.NOT_CONNECTED):
            each.tensor()
    with here.connect():
        for each in copies:
            assert torch.equal(each.tensor(), numbered(100))
            with model.trace(PROMPT, remote=True):
                doubled = (each * 2).save()
            assert torch.equal(doubled, 2 * numbered(100))
    bare = None
    with model.trace(PROMPT, remote=True):  # the stock client's
        bare = edif.keep(torch.arange(3.0))
    place = dataclasses.replace(bare, job=here.jobs()[0]["id"])
    with here.connect():
        with model.trace(PROMPT, remote=True):
            doubled = (place * 2).save()
        assert doubled.tolist() == [0, 2, 4]


def kept_values_count_and_belong_to_whom_they_belong(here: Here) -> None:
    def stored() -> float:
        answer = httpx.get(f"{here.url}/edif/v1/quota", headers={"ndif-api-key": here.key})
        return float(answer.json()["user"]["stored_bytes"]["used"])

    model = here.model
    with here.connect():
        before = stored()
        kept = keep_numbers(here, MIB)
        assert stored() - before >= kept.nbytes
    with told(errors.NOT_CONNECTED):
        kept.tensor()
    with (
        edif.connect(here.url, here.other_key),
        pytest.raises(RemoteError, match=r"\[job_unknown\]"),
        model.trace(PROMPT, remote=True),
    ):
        (kept + 1).save()


def what_cannot_be_kept_is_told(here: Here) -> None:
    model = here.model
    with here.connect():
        with pytest.raises(RemoteError, match="this int has none"), model.trace(PROMPT, remote=True):
            edif.keep(3)
        with (
            pytest.raises(RemoteError, match=r"kept values have .* \[result_too_large\]"),
            model.trace(PROMPT, remote=True),
        ):
            zeros = edif.keep(torch.zeros(here.cut_download_bytes))  # noqa: F841
        with edif.batch() as batch:
            for _ in range(17):
                keep_numbers(here, 10)
        many = [result["kept"] for result in batch.results]
        with (
            pytest.raises(RemoteError, match="values that 17 jobs keep, in lists too"),
            model.trace(PROMPT, remote=True),
        ):
            sum(many).save()
        kept = keep_numbers(here, 10)
        for blob in (here.data / "blobs" / "kept").glob(f"{kept.job}-*"):
            blob.unlink()
        with told(errors.KEPT_GONE, kept.job):
            kept[0]
        with pytest.raises(RemoteError, match=r"\[kept_gone\]"), model.trace(PROMPT, remote=True):
            (kept + 1).save()


def without_a_connection_a_handle_is_a_place(here: Here) -> None:
    """The stock client cannot fetch it, but nothing is lost: whoever connects can."""
    model, kept = here.model, None
    with model.trace(PROMPT, remote=True):
        kept = edif.keep(model.transformer.h[0].output)
    assert isinstance(kept, Place)
    with here.connect():
        handle = edif.job(here.jobs()[0]["id"]).result()["kept"]
        assert torch.equal(handle.tensor(), here.trace()[1])


SCENARIOS: dict[str, Callable[[Here], None]] = {
    name: value
    for name, value in list(globals().items())
    if inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["here"]
}


def main(plan_file: str) -> None:
    plan = json.loads(Path(plan_file).read_text())
    here = Here(plan)
    outcomes = {}
    for name, scenario in SCENARIOS.items():
        began = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            scenario(here)
            outcomes[name] = ""
        except Exception:  # noqa: BLE001 - it is written down
            outcomes[name] = traceback.format_exc()
        print(f"== {time.monotonic() - began:.1f} s {outcomes[name][-600:]}", flush=True)
    Path(plan["out"]).write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1])
