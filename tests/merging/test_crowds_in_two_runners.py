"""Many shared jobs at once: two processes run them together, in turn."""

import os
from pathlib import Path

import pytest

from edif.wire.link import ModelSpec
from tests.merging.test_random_programs import EVERYTHING, IDS
from tests.support.programs.misfits import telling_its_process
from tests.support.programs.payloads import payloads
from tests.support.programs.serving import serving

JOBS = 64


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor runs one of them at a time")
async def test_crowd_is_run_together_by_two_processes(models: dict[str, Path], tmp_path: Path) -> None:
    spec = ModelSpec(IDS["gpt2"], str(models[IDS["gpt2"]]))
    (request,) = payloads([telling_its_process("gpt2")], models[IDS["gpt2"]], tmp_path / "programs")
    async with serving(spec, tmp_path / "served", merging=EVERYTHING) as served:
        alone = await served.run(request)
        served.merge = True
        few = await served.run_all([request] * 3, at_once=3)
        crowd = await served.run_all([request] * JOBS, at_once=JOBS)
    assert {each.result for each in (*few, *crowd)} == {alone.result}
    assert len({each.log for each in few}) == 1, "few are not divided"
    in_company = {each.log for each in crowd if each.in_company}
    assert len(in_company) == 2
