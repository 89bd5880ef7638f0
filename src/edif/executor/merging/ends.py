"""Which rows of a shared generation have come to their end."""

from typing import Any

import torch

from edif.executor.merging.request import Request


class Ends:
    """Watches a generation for rows that end: a batch goes on until the last of them has. It stops nothing itself."""

    def __init__(self, model: Any, request: Request, note: Any) -> None:
        default = getattr(model._module.generation_config, "eos_token_id", None)  # noqa: SLF001
        ends: Any = dict(request.options).get("eos_token_id", default)
        self._ends = torch.tensor(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self._ended = torch.zeros(request.rows, dtype=torch.bool)
        self._note = note

    def __call__(self, ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self._ended |= torch.isin(ids[:, -1], self._ends)
        self._note(self._ended.tolist(), ids)
        return torch.zeros(len(ids), dtype=torch.bool)
