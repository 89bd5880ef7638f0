"""What a batch can gain at best: the model's forward pass in plain PyTorch, with no fabric and no nnsight around it.

Usage: ``python -m bench.pure_passes MODEL_FOLDER THREADS``, then one line of standard input for each measurement: rows and
tokens. Each is answered by a line, the seconds of the fastest of some passes.
"""

import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM

_FEWEST = 3
_LEAST_S = 0.5
"""Passes are repeated until both are reached."""


def _seconds(model: Any, rows: int, tokens: int) -> float:
    ids = 2 + torch.arange(rows * tokens).view(rows, tokens) % 300
    mask = torch.ones_like(ids)
    taken: list[float] = []
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
        while len(taken) < _FEWEST or sum(taken) < _LEAST_S:
            began = time.perf_counter()
            model(input_ids=ids, attention_mask=mask)
            taken.append(time.perf_counter() - began)
    return min(taken)


def _main(folder: str, threads: int) -> None:
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for line in sys.stdin:
        rows, tokens = map(int, line.split())
        print(_seconds(model, rows, tokens), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
