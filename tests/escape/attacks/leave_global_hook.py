"""Leaves a hook on all modules."""

KIND = "neighbour"


def attack(canary, module):
    from torch.nn.modules.module import register_module_forward_hook

    register_module_forward_hook(
        lambda _module, _arguments, output: output * 2 if hasattr(output, "shape") else None
    )
