"""The first program of a newcomer, on the bundled model."""

ONLY = "demo"


def hello(model, remote):
    with model.trace("When Mary and John went to the store , John gave a drink to", remote=remote):
        logits = model.lm_head.output[0, -1].save()
    with model.trace("When John and Mary went to the store , Mary gave a drink to", remote=remote):
        plain_logits = model.lm_head.output[0, -1].save()

    return {
        "logits": logits,
        "plain_logits": plain_logits,
        "words": [model.tokenizer.decode(token) for token in logits.topk(3).indices],
    }
