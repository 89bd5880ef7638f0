"""Replaces the forward pass of the model's class."""

KIND = "neighbour"


def attack(canary, module):
    import torch

    kind = type(module)
    plain = kind.forward

    def forward(self, *arguments, **more):
        answer = plain(self, *arguments, **more)
        answer.logits = torch.zeros_like(answer.logits)
        return answer

    kind.forward = forward
    type(module.transformer.ln_f).forward = lambda _self, x: torch.zeros_like(x)
