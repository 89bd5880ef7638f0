"""The requests with which shared passes are measured: small traces of a GPT-2, minted beforehand in a process of its own."""

from collections.abc import Sequence
from pathlib import Path

from tests.support.programs.payloads import Payload, payloads
from tests.support.programs.program import Program

_HEADER = "import nnsight\nimport torch\n\n\ndef program(model, backend):\n"
_FIRST_ID, _IDS = 2, 300
"""Token ids that every model here has."""


def read_and_edit(
    model: Path, folder: Path, lengths: Sequence[int], layers: int, count: int
) -> dict[int, list[Payload]]:
    """By length ``count`` traces with different prompts: each reads one layer's output, edits a position of the next, and saves both.

    It saves the last logits too, as who edits wants to see what comes of it: a shared pass ends with the last thing that somebody
    wants of it, and is to be compared with whole ones.

    Args:
        folder: for the programs; made if it is not there.
        layers: of the model, two at least.
    """
    read, edited = layers // 2 - 1, layers // 2
    lines = [
        f"read = model.transformer.h[{read}].output.save()",
        f"model.transformer.h[{edited}].output[:, 1] += 0.5",
        f"edited = model.transformer.h[{edited}].output.save()",
        "logits = model.lm_head.output[:, -1].save()",
    ]
    programs = [
        _program(f"edit_{length}_{number}", length, number, lines)
        for length in lengths
        for number in range(count)
    ]
    minted = iter(payloads(programs, model, folder))
    return {length: [next(minted) for _ in range(count)] for length in lengths}


def read_layers(model: Path, folder: Path, length: int, layers: int, numbers: Sequence[int]) -> list[Payload]:
    """For each number one trace that reads the last so many of all layers, and saves the last position of each."""
    programs = []
    for count in numbers:
        lines = [
            f"read{layer} = model.transformer.h[{layer}].output[:, -1].save()"
            for layer in range(layers - count, layers)
        ]
        programs.append(_program(f"read_{count}", length, count, lines))
    return payloads(programs, model, folder)


def _program(name: str, length: int, seed: int, lines: Sequence[str]) -> Program:
    row = tuple(_FIRST_ID + (seed * 31 + position * 7) % _IDS for position in range(length))
    body = [
        f"    with model.trace(torch.tensor([{list(row)}]), backend=backend):",
        *(f"        {line}" for line in lines),
    ]
    return Program(name, "gpt2", "trace", _HEADER + "\n".join(body) + "\n", ((row,),))
