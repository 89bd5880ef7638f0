"""The memory of a seat: what is put there is found there, and nothing else is in reach."""

import mmap
import os
from collections.abc import Callable

import pytest
import torch

from edif.executor.merging.identity import Identity
from edif.executor.merging.seat_memory import Region, memory_file, place
from edif.wire.seat import Leaf
from tests.unit.helpers import open_descriptors

LOCATIONS = 90


def _placed(tensors: list[torch.Tensor]) -> tuple[list[Leaf], int]:
    return place(tensors, [Identity(number, number, 0) for number in range(len(tensors))])


@pytest.fixture
def regions() -> tuple[Region, Region]:
    """Of the driver, and of the job."""
    fd, start, span = memory_file(LOCATIONS, 1000)
    ours, theirs = Region(fd, start, span), Region(fd, start, span)
    os.close(fd)
    return ours, theirs


TENSORS = [
    torch.arange(24.0).view(2, 3, 4),
    torch.arange(24.0).view(4, 3, 2).permute(2, 1, 0),
    torch.arange(24.0).view(2, 4, 3).transpose(1, 2),
    torch.arange(6.0).view(2, 3).to(torch.bfloat16),
    torch.tensor([True, False]),
    torch.tensor(3),
    torch.zeros(0, 4),
    torch.arange(3.0)[None, :, None].expand(2, 3, 4),
    torch.arange(24)[::2].view(3, 4),
    torch.zeros(2, 2, dtype=torch.complex64),
]


@pytest.mark.parametrize("tensor", TENSORS, ids=lambda each: f"{tuple(each.shape)} {each.stride()}")
def test_what_one_side_writes_the_other_reads(tensor: torch.Tensor, regions: tuple[Region, Region]) -> None:
    ours, theirs = regions
    (first, leaf), _ = _placed([torch.ones(7), tensor])
    ours.tensor(first).fill_(7)
    ours.tensor(leaf).copy_(tensor)
    assert torch.equal(theirs.tensor(leaf), tensor)
    theirs.tensor(leaf, replacement=True).copy_(torch.ones_like(tensor))
    assert torch.equal(ours.tensor(leaf, replacement=True), torch.ones_like(tensor))
    assert torch.equal(ours.tensor(leaf), tensor), "what takes its place lies elsewhere"
    assert bool((theirs.tensor(first) == 7).all())


@pytest.mark.parametrize("tensor", TENSORS[:3], ids=str)
def test_dimensions_lie_in_the_same_order_as_before(tensor: torch.Tensor) -> None:
    """Kernels sum in the order in which numbers lie."""
    (leaf,), _ = _placed([tensor])
    assert tuple(leaf.strides) == tensor.stride()


def test_leaves_do_not_overlap_and_are_aligned() -> None:
    leaves, span = _placed(TENSORS)
    ends = [
        leaf.offset + tensor.numel() * tensor.element_size()
        for leaf, tensor in zip(leaves, TENSORS, strict=True)
    ]
    assert all(leaf.offset % 64 == 0 for leaf in leaves)
    assert all(end <= leaf.offset for end, leaf in zip(ends, leaves[1:], strict=False))
    assert ends[-1] <= span


def test_counts_are_seen_on_the_other_side(regions: tuple[Region, Region]) -> None:
    ours, theirs = regions
    ours.counts[:LOCATIONS] = torch.arange(LOCATIONS, dtype=torch.int32)
    assert theirs.counts[:LOCATIONS].tolist() == list(range(LOCATIONS))


OUTSIDE = [
    Leaf(1 << 20, [1], [1], "float32", 0, 0, 0),
    Leaf((1 << 20) - 4, [2], [1], "float32", 0, 0, 0),
    Leaf(0, [1 << 19], [1], "float32", 0, 0, 0),
    Leaf(0, [2**31 - 1, 2**31 - 1], [1, 1], "float64", 0, 0, 0),
    Leaf(1 << 46, [1], [1], "uint8", 0, 0, 0),
    Leaf(0, [2], [1], "float128", 0, 0, 0),
    Leaf(0, [2], [1], "__class__", 0, 0, 0),
    Leaf(0, [2, 2], [1], "float32", 0, 0, 0),
    Leaf(0, [2], [2, 1], "float32", 0, 0, 0),
]


@pytest.mark.parametrize("leaf", OUTSIDE, ids=str)
@pytest.mark.parametrize("replacement", [False, True])
def test_a_leaf_outside_is_refused(leaf: Leaf, replacement: bool, regions: tuple[Region, Region]) -> None:
    with pytest.raises(ValueError, match="leaf"):
        regions[0].tensor(leaf, replacement=replacement)


def test_strides_do_not_reach_out_of_the_file(regions: tuple[Region, Region]) -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        regions[0].tensor(Leaf(0, [2, 2], [2**30, 1], "float32", 0, 0, 0))


@pytest.mark.parametrize(
    "harm",
    [
        lambda fd: os.ftruncate(fd, 0),
        lambda fd: os.ftruncate(fd, 1 << 30),
        lambda fd: os.posix_fallocate(fd, 1 << 24, 4096),
    ],
    ids=["shrink", "grow", "allocate behind"],
)
def test_its_size_is_sealed(harm: Callable[[int], object]) -> None:
    """A driver that reads memory which is no longer there would be killed by a signal."""
    fd, _, _ = memory_file(LOCATIONS, 1000)
    try:
        with pytest.raises(OSError, match="Operation not permitted"):
            harm(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("span", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20])
@pytest.mark.parametrize("locations", [0, 1, 1024, 1025])
def test_it_is_large_enough(span: int, locations: int) -> None:
    fd, start, room = memory_file(locations, span)
    size = os.fstat(fd).st_size
    os.close(fd)
    assert room >= span
    assert start >= 4 * locations
    assert start % mmap.PAGESIZE == 0
    assert size == start + 2 * room


def test_no_descriptor_is_left() -> None:
    before = open_descriptors()
    fd, start, span = memory_file(3, 3)
    region = Region(fd, start, span)
    os.close(fd)
    del region
    assert open_descriptors() == before
