"""Replaces what nnsight does with a saved value."""

KIND = "neighbour"


def attack(canary, module):
    import nnsight.intervention.envoy as envoy

    envoy.Envoy.output = property(lambda _self: 42)
