"""Puts a tensor of twice the size in the place of its rows."""

KIND = "rows"


def attack(canary, rows):
    return (rows * 3).double()
