"""With what a model can be called at all: beyond, a shared pass would fail for everyone in it."""

from typing import Any

import torch

from edif.executor.merging.request import Request, request_of
from edif.wire import seat
from edif.wire.link import Merging


class Bounds:
    """
    Args:
        module: the loaded model.
        merging: the bounds of shared passes.
    """

    def __init__(self, module: Any, merging: Merging) -> None:
        config = module.config.get_text_config()
        self._ids = min(module.get_input_embeddings().num_embeddings, config.vocab_size)
        self._positions = getattr(config, "max_position_embeddings", None) or 1 << 30
        self._merging = merging

    def request(self, message: seat.Join) -> Request | None:
        """The request in a message, if it is one that a job's own process would make and the model can run."""
        size = message.rows * message.tokens * 8
        fields = (message.ids, message.mask, message.positions)
        if len(message.ids) != size or any(len(each) not in (0, size) for each in fields):
            return None
        ids, mask, positions = (
            torch.frombuffer(bytearray(each), dtype=torch.int64).view(message.rows, message.tokens)
            if each
            else None
            for each in fields
        )
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **message.options}
        request = request_of(
            message.generates, (), {name: each for name, each in given.items() if each is not None}
        )
        if request is None or request.rows > self._merging.rows or request.size > self._merging.tokens:
            return None
        return request if self.hold(request) else None

    def hold(self, request: Request) -> bool:
        """Whether the model can run it: ids that it knows, positions that it has."""
        options = dict(request.options)
        length = request.tokens
        if request.generates:
            new = options.get("max_new_tokens")
            if not isinstance(new, int) or new < 1:
                return False  # the model's own default may be any number
            length += new
        return (
            length <= self._positions
            and _between(request.ids, self._ids)
            and (request.mask is None or _between(request.mask, 2))
            and (request.positions is None or _between(request.positions, self._positions))
            and all(
                isinstance(each, int) and 0 <= each < self._ids
                for name, each in options.items()
                if name.endswith("_token_id")
            )
        )


def _between(numbers: torch.Tensor, end: int) -> bool:
    return bool(((numbers >= 0) & (numbers < end)).all())
