"""A researcher's own helpers, in a file that only the client has."""

from dataclasses import dataclass

import torch

SCALE = 3.0


def _flip(tensor):
    return tensor.flip(-1) * SCALE


def flipped(tensor):
    """Uses another function and a global of this file."""
    return _flip(tensor)


@dataclass
class Steering:
    """Adds a direction of a given strength."""

    strength: float

    def apply(self, hidden):
        return hidden + self.strength * torch.linspace(-1, 1, hidden.shape[-1])


class SparseCoder(torch.nn.Module):
    """Untrained, but with weights that have to travel."""

    def __init__(self, width, codes):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.encoder = torch.nn.Linear(width, codes)
        self.decoder = torch.nn.Linear(codes, width)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, hidden):
        return self.decoder(torch.relu(self.encoder(hidden)))


def zero_in_a_trace(model, layer, prompt, head, remote):
    """Opens the trace itself, as helper libraries do."""
    with model.trace(prompt, remote=remote):
        layer.output[:, -1] = 0
        logits = head.output.save()
    return logits


def refuse(value):
    raise LookupError(f"refused a tensor of width {value}")
