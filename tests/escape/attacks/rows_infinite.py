"""Makes its activations infinite in the middle of a pass, of both signs."""

KIND = "rows"


def attack(canary, rows):
    rows[..., ::2] = float("inf")
    rows[..., 1::2] = float("-inf")
    return rows
