"""How values travel to a connected program, or do not: packed, rounded, as arrays, kept on the fabric. Run by ``connected.py``."""

import asyncio
import copy
import dataclasses
import io
import pickle
from contextlib import redirect_stderr
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError

import edif
from edif.core import errors
from edif.wire.kept import Place
from tests.fabric.connected_here import MIB, PROMPT, Here, compressing, surroundings, told
from tests.support.cut_line import CutLine


# -- packed, rounded, arrays ----------------------------------------------------------------------------------
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
    before = surroundings()
    for wrong in ("int8", "bf16", ""):
        with told(errors.CONFIG_INVALID, repr(wrong), "'bfloat16'"):
            edif.connect(here.url, here.key, rounding=wrong)
    assert surroundings() == before


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
