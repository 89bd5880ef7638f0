"""A job of somebody else, which must not notice what ran before it."""

PROMPT = "Mary and John went to the"


def surroundings():
    """What of the process a job before this one could have left otherwise."""
    import colorsys
    import linecache
    import textwrap
    import threading

    import torch

    return repr(
        (
            torch.is_grad_enabled(),
            torch.tensor(1.0).dtype,
            colorsys.rgb_to_hsv(0.1, 0.2, 0.3),
            sum([1, 2, 3]),
            linecache.getline(textwrap.__file__, 1),
            threading.active_count(),
        )
    )


def run_crowd(model, edit=None):
    """The bits of the second row of a pass, to whose first activations ``edit`` does what it likes: nothing tells rows apart."""
    with model.trace([PROMPT, PROMPT]):
        if edit is not None:
            model.transformer.h[0].output = edit(model.transformer.h[0].output)
        hidden = model.transformer.h[1].output.save()
        logits = model.lm_head.output.save()
    return tuple(each[1].detach().numpy().tobytes().hex() for each in (hidden, logits))


def run_neighbour(model, remote):
    """The bits of its results, as text."""
    with model.trace(PROMPT, remote=remote):
        hidden = model.transformer.h[1].output[0].save()
        logits = model.lm_head.output.save()
        rest = surroundings().save()
    return hidden.detach().numpy().tobytes().hex(), logits.detach().numpy().tobytes().hex(), rest
