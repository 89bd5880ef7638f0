"""Makes its activations NaN in the middle of a pass."""

KIND = "rows"


def attack(canary, rows):
    return rows * float("nan")
