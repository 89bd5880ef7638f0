"""A program of a person who is connected with ``edif.connect``: ``connected.py PLAN``.

The plan (JSON) names the fabric's ``url`` and ``data`` folder, the user's ``key`` and ``other_key``, the ``model``, how many bytes
are downloaded while the line is cut (``cut_download_bytes``), and ``out``, where it is written for each scenario what went wrong: nothing, or
a traceback. Several real clients would take minutes: all scenarios run here, one after the other.
"""

import asyncio
import faulthandler
import inspect
import json
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub.hf_api
import pytest
import torch
from nnsight import TransformersModel
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.schema.config import CONFIG
from nnsight.schema.response import Status

import edif
from edif.client import checks
from edif.client.download import Download
from edif.core import errors
from tests.fabric import connected_values
from tests.fabric.connected_here import MIB, PATIENCE_S, PROMPT, Here, compressing, drawn, surroundings, told
from tests.support.cut_line import CutLine


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


# -- connecting, and leaving --------------------------------------------------------------------------------
def everything_is_put_back(here: Here) -> None:
    before = surroundings()
    with CutLine(here.url) as line:
        with here.connect() as outer:
            outside = surroundings()
            with edif.connect(line.url, here.key):
                changed = surroundings()
                assert changed[5] == huggingface_hub.hf_api.api.endpoint == f"{line.url}/hub"
                assert huggingface_hub.HfApi().endpoint == f"{line.url}/hub"
                assert (
                    TransformersModel("tiny/gpt2", task="text-generation").to_model_key()
                    == here.model.to_model_key()
                )
            assert surroundings() == outside
            assert not outer.closed
        assert surroundings() == before
        first, second = here.connect(), edif.connect(line.url, here.key)
        with here.connect() as third:
            first.close()
            second.close()
            assert here.url == CONFIG.API.HOST, "the last one is in use whatever becomes of others"
            assert here.connect() is third, "as when a notebook's cell is run again"
        assert not third.closed, "it is still held by who asked for it last"
        third.close()
        assert surroundings() == before
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
    before = surroundings()
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
    assert surroundings() == before


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
        assert f"pip install 'torch=={real('torch').partition('+')[0]}' (" in str(heard[0].message)
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


def traces_of_a_connection_that_is_to_share_no_pass_say_so(here: Here) -> None:
    _, expected = here.trace()
    with here.connect() as sharing, edif.connect(here.url, here.key, merge=False) as apart:
        with edif.connect(here.url, here.key, merge=False) as same:
            assert same is apart
        tracer, hidden = here.trace()
        assert torch.equal(hidden, expected)
        assert here.extras(tracer.backend.job_id)["merge"] is False
        with here.connect() as again:
            assert again not in (sharing, apart)
            tracer, _ = here.trace()
            assert here.extras(tracer.backend.job_id)["merge"] is True


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


def a_connection_can_be_left_while_traces_are_sent(here: Here) -> None:
    """Who breaks off a batch and leaves closes no connection on which another thread still waits for its answer."""
    for number in range(8):
        with here.connect(), pytest.raises(KeyError, match="broken off"), edif.batch():  # noqa: PT012
            here.trace()
            time.sleep(number / 200)
            raise KeyError("broken off")
    deadline = time.monotonic() + PATIENCE_S
    while [thread for thread in threading.enumerate() if thread.name.startswith("edif batch")]:
        assert time.monotonic() < deadline, "a thread that sends is left behind"
        time.sleep(0.1)


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


SCENARIOS: dict[str, Callable[[Here], None]] = {
    name: value
    for name, value in [*globals().items(), *vars(connected_values).items()]
    if inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["here"]
}

ENDS_WITHIN_S = 60.0


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
    # Who is done ends, and does not wait for a thread that was left behind: then it is told which.
    faulthandler.dump_traceback_later(ENDS_WITHIN_S, exit=True)


if __name__ == "__main__":
    main(sys.argv[1])
