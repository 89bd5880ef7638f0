"""The memory file: written once, unchangeable afterwards, on huge pages where the kernel gives them."""

import os
import re
from pathlib import Path

import pytest
import torch

from edif.executor.huge_pages import HUGE_PAGE
from edif.executor.weight_file import WeightFile


@pytest.fixture
def filled() -> WeightFile:
    file = WeightFile(2 * HUGE_PAGE + 100)
    data = torch.arange(2 * HUGE_PAGE + 100, dtype=torch.int64).remainder(251).to(torch.uint8)
    file.write(0, data[:100])
    file.write(128, data[128:])
    file.seal()
    return file


def test_what_was_written_is_there(filled: WeightFile) -> None:
    assert filled.bytes[:100].tolist() == [number % 251 for number in range(100)]
    assert filled.bytes[100:128].tolist() == [0] * 28
    assert int(filled.bytes[2 * HUGE_PAGE + 99]) == (2 * HUGE_PAGE + 99) % 251
    assert len(filled.bytes) == 3 * HUGE_PAGE


def test_a_write_to_the_mapping_stays_in_its_process(filled: WeightFile) -> None:
    pid = os.fork()
    if pid == 0:
        filled.bytes[5] = 99
        os._exit(int(filled.bytes[5]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 99
    assert int(filled.bytes[5]) == 5


def test_it_keeps_no_descriptor(filled: WeightFile) -> None:
    assert filled.bytes.numel()
    links = [fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    assert not [link for link in links if "edif-weights" in str(link)]


def test_it_lies_on_huge_pages(filled: WeightFile) -> None:
    if tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2]) < (6, 1):
        pytest.skip("this kernel makes no huge pages on request")
    filled.bytes.sum()
    smaps = Path("/proc/self/smaps").read_text()
    mapping = smaps[smaps.index(f"{filled.bytes.data_ptr():x}-") :]
    huge = re.search(r"^ShmemPmdMapped: +(\d+) kB", mapping, re.MULTILINE)
    assert huge is not None
    assert int(huge[1]) * 1024 == 3 * HUGE_PAGE
