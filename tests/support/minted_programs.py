"""Requests minted by the stock client's own serialiser, to be replayed by tests without importing torch.

``mint.py`` runs this file once in a process of its own: for every function below it writes the blob that
``remote=True`` would send.
"""

import ctypes
import os
import sys
import threading
import time
from pathlib import Path

import torch
from nnsight import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

import edif
from edif.wire.kept import Place

PROMPT = "Mary and John went to the"


class _Dump(Backend):
    """Writes the request instead of sending it."""

    def __init__(self, path: Path, compress: bool) -> None:
        self.path = path
        self.compress = compress

    def __call__(self, tracer: object = None) -> None:
        self.path.write_bytes(RequestModel.serialize(tracer, self.compress))


def hello(model, backend):
    with model.trace(PROMPT, backend=backend):
        logits = model.lm_head.output[0, -1].save()  # noqa: F841


def hidden(model, backend):
    with model.trace(PROMPT, backend=backend):
        h = model.transformer.h[1].output[0].save()  # noqa: F841


def slow(model, backend):
    with model.trace(PROMPT, backend=backend):
        time.sleep(1.5)
        logits = model.lm_head.output[0, -1].save()  # noqa: F841


def eats_memory(model, backend):
    with model.trace(PROMPT, backend=backend):
        block = bytearray(2**40).save()  # noqa: F841


def eats_tensor_memory(model, backend):
    with model.trace(PROMPT, backend=backend):
        block = torch.zeros(2**40).save()  # noqa: F841


def fills_memory(model, backend):
    with model.trace(PROMPT, backend=backend):
        blocks = [torch.ones(25_000_000), torch.ones(25_000_000)].save()
        while True:
            blocks.append(torch.empty(25_000_000))  # asked for, and never touched


def takes_memory(model, backend):
    with model.trace(PROMPT, backend=backend):
        mean = torch.ones(25_000_000).mean().save()  # noqa: F841


def surroundings(model, backend):
    with model.trace(PROMPT, backend=backend):
        names = sorted(os.environ).save()  # noqa: F841


def large(model, backend):
    with model.trace(PROMPT, backend=backend):
        noise = torch.rand(1_500_000).save()  # noqa: F841 - 6 MB that no compression makes smaller


def wave(model, backend):
    with model.trace(PROMPT, backend=backend):
        values = torch.arange(300_000, dtype=torch.float64).sin().save()  # noqa: F841 - 2.4 MB, always the same


def vast(model, backend):
    with model.trace(PROMPT, backend=backend):
        numbers = torch.arange(VAST_MIB * 2**17).save()  # noqa: F841 - int64


def endless(model, backend):
    with model.trace(PROMPT, backend=backend):
        while True:
            time.sleep(0.01)


def endless_in_c(model, backend):
    with model.trace(PROMPT, backend=backend):
        model.lm_head.output.save()
        ctypes.CDLL(None).pause()


def raises(model, backend):
    with model.trace(PROMPT, backend=backend):
        x = model.transformer.h[0].output[0]
        y = x[10_000]  # noqa: F841


def stops(model, backend):
    with model.trace(PROMPT, backend=backend) as tracer:
        hidden = model.transformer.h[0].output[0].save()  # noqa: F841
        tracer.stop()


def wrong_order(model, backend):
    with model.trace(PROMPT, backend=backend):
        late = model.transformer.h[2].output[0].save()  # noqa: F841
        early = model.transformer.h[0].output[0].save()  # noqa: F841


def no_such_module(model, backend):
    with model.trace(PROMPT, backend=backend):
        x = model.transformer.h[0].no_such_thing.output.save()  # noqa: F841


def unpicklable(model, backend):
    with model.trace(PROMPT, backend=backend):
        lock = threading.Lock().save()  # noqa: F841
        fine = model.lm_head.output.save()  # noqa: F841


def too_much(model, backend):
    with model.trace(PROMPT, backend=backend):
        import torch

        big = torch.rand(64, 1024, 1024).save()  # noqa: F841


def prints(model, backend):
    with model.trace(PROMPT, backend=backend):
        print("hello from the trace")
        logits = model.lm_head.output[0, -1].save()  # noqa: F841


def flood(model, backend):
    with model.trace(PROMPT, backend=backend):
        for number in range(200_000):
            print("line", number)
        logits = model.lm_head.output[0, -1].save()  # noqa: F841


def exits(model, backend):
    with model.trace(PROMPT, backend=backend):
        os._exit(3)


def segfault(model, backend):
    with model.trace(PROMPT, backend=backend):
        ctypes.string_at(0)


def edits_weights(model, backend):
    with model.trace(PROMPT, backend=backend):
        model.lm_head._module.weight.data.mul_(2.0)
        logits = model.lm_head.output[0, -1].save()  # noqa: F841


def edits_weights_and_waits(model, backend):
    with model.trace(PROMPT, backend=backend):
        model.lm_head._module.weight.data.mul_(2.0)
        time.sleep(3)
        logits = model.lm_head.output[0, -1].save()  # noqa: F841


def leaves_hooks(model, backend):
    with model.trace(PROMPT, backend=backend):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        model.transformer.h[0]._module.register_forward_hook(lambda *_: None)
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        logits = model.lm_head.output[0, -1].save()  # noqa: F841


def keeps(model, backend):
    with model.trace(PROMPT, backend=backend):
        numbers = torch.arange(100_000, dtype=torch.float32)
        kept = edif.keep(torch.cat([numbers, torch.ones(100_000)]))  # noqa: F841


USED = Place("j" + 24 * "0", 0, (100_000,), "float32")


def uses(model, backend):
    with model.trace(PROMPT, backend=backend):
        assert USED.shape == (100_000,)
        last = (3 * USED[-1:]).save()  # noqa: F841


PROGRAMS = [
    hello, hidden, slow, endless, endless_in_c, raises, stops, wrong_order, no_such_module, unpicklable, too_much, vast,
    prints, flood, exits, segfault, edits_weights, edits_weights_and_waits, leaves_hooks,
    large, wave,
    keeps, eats_memory, eats_tensor_memory, fills_memory, takes_memory, surroundings,
]  # fmt: skip


def _main(model_folder: str, folder: Path) -> None:
    model = TransformersModel(model_folder, task="text-generation")
    for program in PROGRAMS:
        try:
            program(model, _Dump(folder / f"{program.__name__}.zst", compress=True))
        except AttributeError:
            if program is not no_such_module:
                raise
    for program in (hello, surroundings, vast, uses):
        program(model, _Dump(folder / f"{program.__name__}.raw", compress=False))


if __name__ == "__main__":
    VAST_MIB = int(sys.argv[3])
    _main(sys.argv[1], Path(sys.argv[2]))
