"""Asks for generations with options that break them, or that never end."""

import math

from kit import encode, join, seat

KIND = "frames"


def attack(canary):
    link = seat()
    link.send(canary["mark"].encode())
    length = {"max_new_tokens": 2}
    for options in (
        {},
        {"max_new_tokens": 2**62},
        {"max_new_tokens": -1},
        {**length, "repetition_penalty": math.nan},
        {**length, "repetition_penalty": 0.0},
        {**length, "eos_token_id": 2**40},
        {**length, "min_new_tokens": -(2**40)},
        {**length, "do_sample": True},
        {**length, "streamer": "stdout"},
        {**length, "num_beams": 64},
        {f"option{number}": None for number in range(32)},
    ):
        link.send(encode(join(options=options, generates=True, wants=[[0, 0]])))
