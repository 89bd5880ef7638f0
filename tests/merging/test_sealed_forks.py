"""Forks for sealed jobs, one after the other: what a bare fork leaves undone, and what the zygote holds for each of them."""

import asyncio
from pathlib import Path

import psutil

from edif.wire.link import ModelSpec
from tests.merging.test_random_programs import EVERYTHING, IDS
from tests.support.programs.misfits import drawing_numbers
from tests.support.programs.payloads import payloads
from tests.support.programs.serving import serving

JOBS = 12


async def test_each_draws_its_own_numbers_and_leaves_nothing_open_in_the_zygote(
    models: dict[str, Path], tmp_path: Path
) -> None:
    spec = ModelSpec(IDS["gpt2"], str(models[IDS["gpt2"]]))
    (request,) = payloads([drawing_numbers("gpt2")], models[IDS["gpt2"]], tmp_path / "programs")
    before = {each.pid for each in psutil.Process().children()}
    async with serving(spec, tmp_path / "served", sealed=True, merging=EVERYTHING) as served:
        served.merge = True
        first = await served.run(request)
        (zygote,) = (each for each in psutil.Process().children() if each.pid not in before)
        open_then = zygote.num_fds()
        others = await served.run_all([request] * JOBS, at_once=3)
        async with asyncio.timeout(60):  # it may be making the next one just now
            while zygote.num_fds() > open_then:
                await asyncio.sleep(0.01)
    assert {each.result for each in others} == {first.result}
    drawn = zip(*(each.log.split() for each in (first, *others)), strict=True)
    assert [len(set(numbers)) for numbers in drawn] == [1 + JOBS] * 3, "of Python, numpy and torch"
