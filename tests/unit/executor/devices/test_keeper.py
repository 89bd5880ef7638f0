"""The process that holds the weights on a device: each test uses a real one, on each device that is there."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator

import pytest
import torch

from edif.executor.devices import CannotUseDevice, device_named
from edif.executor.devices import keeper as keeper_module
from edif.executor.devices.device import Device
from edif.executor.devices.keeper import Keeper
from edif.executor.devices.sums import ROW_BYTES
from edif.executor.weight_file import WeightFile
from edif.wire import pipe
from tests.support.devices import DEVICES

SIZE = 2 * ROW_BYTES + 4096


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    found = device_named(request.param)
    assert found is not None
    return found


@pytest.fixture
def weights() -> torch.Tensor:
    file = WeightFile(SIZE)
    file.write(0, torch.randint(0, 256, (SIZE,), dtype=torch.uint8, generator=torch.manual_seed(3)))
    file.seal()
    return file.bytes


@pytest.fixture
def keeper(device: Device, weights: torch.Tensor) -> Iterator[Keeper]:
    made = Keeper(device, weights, _settle)
    yield made
    made.end()
    os.waitpid(made.pid, 0)


def _settle() -> None:
    """A fork of a process that has computed with several threads hangs if it does so too; the zygote never does."""
    torch.set_num_threads(1)


def _in_a_fork(check: Callable[[], None]) -> None:
    """Run ``check`` where a job's process would be; what it raises is this test's failure."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _settle()
            check()
            code = 0
        except BaseException:  # noqa: BLE001 - a fork must not return into the test
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_others_find_what_it_holds(device: Device, keeper: Keeper, weights: torch.Tensor) -> None:
    def check() -> None:
        device.begin()
        span = device.open(*keeper.shared, len(weights))
        assert torch.equal(span.view(0, len(weights)).cpu(), weights)
        part = span.view(4096, 64)
        assert part.untyped_storage().nbytes() == 64
        assert torch.equal(part.cpu(), weights[4096 : 4096 + 64])

    _in_a_fork(check)


def test_what_others_change_is_put_right(device: Device, keeper: Keeper, weights: torch.Tensor) -> None:
    def change() -> None:
        device.begin()
        there = device.open(*keeper.shared, len(weights)).view(0, len(weights))
        there[5] += 1
        there[SIZE - 1] += 1
        device.finish()

    def check() -> None:
        device.begin()
        there = device.open(*keeper.shared, len(weights)).view(0, len(weights))
        assert torch.equal(there.cpu(), weights)

    assert keeper.put_right() == 0
    _in_a_fork(change)
    assert keeper.put_right() == ROW_BYTES + len(weights) - 2 * ROW_BYTES
    _in_a_fork(check)
    assert keeper.put_right() == 0


def test_who_asks_one_that_is_gone_is_told(keeper: Keeper) -> None:
    os.kill(keeper.pid, signal.SIGKILL)
    with pytest.raises(pipe.PipeError):
        keeper.put_right()


def test_one_that_hangs_is_not_waited_for_without_end(
    device: Device, weights: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "_ANSWERS_WITHIN_S", 0.2)
    made = Keeper(device, weights, _settle)
    os.kill(made.pid, signal.SIGSTOP)
    with pytest.raises(pipe.PipeError):
        made.put_right()
    made.end()
    os.waitpid(made.pid, 0)


class _NotThere:
    """A device that cannot be used."""

    files, folders, variables = (), (), ()

    def begin(self) -> None:
        raise CannotUseDevice("It is not there.")


class _Crashes(_NotThere):
    def begin(self) -> None:
        os._exit(3)


class _Fails(_NotThere):
    def begin(self) -> None:
        raise RuntimeError("an error that nobody thought of")


def test_why_the_keeper_died_stands_in_the_log(
    weights: torch.Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CannotUseDevice, match="died; the agent's log may say why"):
        Keeper(_Fails(), weights, _settle)
    os.wait()
    assert "an error that nobody thought of" in capfd.readouterr().err


@pytest.mark.parametrize(("kind", "says"), [(_NotThere, "It is not there"), (_Crashes, "died")])
def test_weights_that_cannot_be_held_are_a_sentence(
    kind: type[Device], says: str, weights: torch.Tensor
) -> None:
    with pytest.raises(CannotUseDevice, match=says):
        Keeper(kind(), weights, _settle)
    os.wait()


def test_a_machine_without_a_card_says_so() -> None:
    if torch.version.cuda is not None:
        pytest.skip("this torch may have a card")
    cuda = device_named("cuda:3")
    assert cuda is not None
    with pytest.raises(CannotUseDevice, match="'cuda:3' cannot be used: Torch not compiled with CUDA"):
        cuda.begin()


def test_names_of_devices() -> None:
    assert device_named("cpu") is None
    with pytest.raises(CannotUseDevice, match="no device 'tpu'"):
        device_named("tpu")
