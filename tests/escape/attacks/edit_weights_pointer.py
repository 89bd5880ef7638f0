"""Edits a weight through its address."""

import ctypes

KIND = "neighbour"


def attack(canary, module):
    weight = module.transformer.h[1].attn.c_attn.weight
    ctypes.memset(weight.data_ptr(), 0, weight.numel() * weight.element_size())
