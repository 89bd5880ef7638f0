"""Leaves a hook on a layer."""

KIND = "neighbour"


def attack(canary, module):
    module.lm_head.register_forward_hook(lambda _module, _arguments, output: output + 1)
