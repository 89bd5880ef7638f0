"""Makes its activations so small that a processor takes many times as long for them."""

KIND = "rows"


def attack(canary, rows):
    rows[:] = 1e-42
    return rows
