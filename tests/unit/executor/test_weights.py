"""The weight arena: same values, one copy, and every write noticed."""

import os
import traceback
from collections.abc import Callable

import pytest
import torch

from edif.executor import weights
from edif.executor.weights import WeightArena, WeightGuard


class _Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(100, 32)
        self.head = torch.nn.Linear(32, 100, bias=False)
        self.head.weight = self.embed.weight
        self.norm = torch.nn.LayerNorm(32)
        self.low = torch.nn.Linear(32, 700, dtype=torch.bfloat16)
        self.register_buffer("mask", torch.ones(3, 5, dtype=torch.bool).tril())
        self.register_buffer("empty", torch.empty(0))
        self.register_buffer("view", torch.arange(12.0).view(3, 4).t()[1:])


@pytest.fixture
def module() -> _Tied:
    torch.manual_seed(1)
    return _Tied()


def _copies(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def test_packing_keeps_values_shapes_ties_and_objects(module: _Tied) -> None:
    before = _copies(module)
    objects = [id(each) for each in (*module.parameters(), *module.buffers())]
    strides = module.view.stride()

    arena = WeightArena(module)

    assert [id(each) for each in (*module.parameters(), *module.buffers())] == objects
    after = module.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert module.head.weight is module.embed.weight
    assert module.view.stride() == strides
    assert module.embed.weight.untyped_storage().nbytes() == 100 * 32 * 4, (
        "a storage of its own, not the whole"
    )
    sizes = 100 * 32 * 4 + 2 * 32 * 4 + (32 * 700 + 700) * 2 + 15 + 12 * 4
    assert arena.size_bytes == sizes


def test_gradients_flow_through_packed_weights(module: _Tied) -> None:
    WeightArena(module)
    module.head(module.norm(module.embed(torch.tensor([3, 4])))).sum().backward()
    assert module.embed.weight.grad is not None
    assert module.embed.weight.grad.abs().sum() > 0


def test_odd_tensors_stay_where_they_are_and_are_watched() -> None:
    module = torch.nn.Module()
    module.register_buffer("conjugate", torch.tensor([1 + 2j, 3j]).conj())
    module.register_buffer("plain", torch.ones(4))
    whole = torch.arange(6.0)
    module.register_buffer("small", torch.empty(0).set_(whole.untyped_storage(), 0, (2,), (1,)))
    module.register_buffer("whole", whole)
    arena = WeightArena(module)
    assert module.conjugate[0] == 1 - 2j
    assert torch.equal(module.small, torch.arange(2.0))
    assert torch.equal(module.whole, torch.arange(6.0))
    guard = arena.guard()
    assert guard.unchanged() is not guard.by_pagemap or guard.unchanged()
    module.conjugate.data[1] = 0
    assert not guard.unchanged()


def test_a_module_without_weights_can_be_packed() -> None:
    guard = WeightArena(torch.nn.ReLU()).guard()
    assert guard.unchanged()


def _in_child(work: Callable[[], bool]) -> bool:
    """The truth of ``work()`` in a forked process, as runners are."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            torch.set_num_threads(1)
            code = 0 if work() else 1
        except Exception:  # noqa: BLE001 - the child must not return into pytest
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 1)
    return code == 0


def _guards(arena: WeightArena, by_pagemap: bool) -> WeightGuard:
    if by_pagemap and not weights._pagemap_tells():
        pytest.skip("this kernel does not tell about pages")
    return WeightGuard(arena.whole, by_pagemap=by_pagemap)


_WRITES: dict[str, Callable[[_Tied], object]] = {
    "in place": lambda m: m.norm.weight.data.add_(1),
    "through .data, one value": lambda m: m.embed.weight.data[7, 3].fill_(9),
    "through numpy": lambda m: m.embed.weight.detach().numpy().__setitem__((0, 0), 5.0),
    "in bfloat16": lambda m: m.low.bias.data[0].fill_(3),
    "of a buffer": lambda m: m.mask.__setitem__((0, 4), True),
}


@pytest.mark.parametrize("by_pagemap", [True, False], ids=["pagemap", "sums"])
@pytest.mark.parametrize("how", _WRITES)
def test_every_write_is_noticed_by_the_process_that_made_it(
    module: _Tied, how: str, by_pagemap: bool
) -> None:
    arena = WeightArena(module)

    def writes() -> bool:
        guard = _guards(arena, by_pagemap)
        clean = guard.unchanged()
        _WRITES[how](module)
        return clean and not guard.unchanged()

    if by_pagemap:
        _guards(arena, by_pagemap)  # skips here, not in the child
    assert _in_child(writes)
    assert _in_child(lambda: _guards(arena, by_pagemap).unchanged()), "the parent's copy is as it was"


def test_a_write_that_keeps_the_sum_is_noticed_by_its_page(module: _Tied) -> None:
    arena = WeightArena(module)
    if not weights._pagemap_tells():
        pytest.skip("this kernel does not tell about pages")

    def swaps() -> bool:
        guard = arena.guard()
        rows = module.embed.weight.data
        rows[[0, 1]] = rows[[1, 0]]
        return not guard.unchanged()

    assert _in_child(swaps)


def test_reading_and_computing_changes_nothing(module: _Tied) -> None:
    arena = WeightArena(module)

    def reads() -> bool:
        guard = arena.guard()
        module.head(module.norm(module.embed(torch.arange(100)))).sum().backward()
        module.low(torch.ones(2, 32, dtype=torch.bfloat16))
        return guard.unchanged()

    assert _in_child(reads)


def test_where_pagemap_cannot_be_read_the_sums_are_taken(
    module: _Tied, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError("no pagemap here")

    monkeypatch.setattr(weights, "pages_changed", refuse)
    arena = WeightArena(module)
    assert not arena.guard().by_pagemap
    assert arena.guard().unchanged()
