"""Takes a layer out of the model."""

KIND = "neighbour"


def attack(canary, module):
    import torch

    module.transformer.h[3] = torch.nn.Identity()
    module.transformer.h = module.transformer.h[:2]
