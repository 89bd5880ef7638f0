"""Never ends."""

KIND = "endless"


def attack(canary):
    while True:
        pass
