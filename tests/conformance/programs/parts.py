"""Where the two model families keep the same things; a helper file beside the user's scripts."""

PROMPT = "Mary and John went to the store"
OTHER = "the cat sat on the red mat"
SHORT = "a dog ran"


def parts(model):
    """The layers, the final norm and the unembedding of a GPT-2 or a Llama."""
    if hasattr(model, "transformer"):
        return model.transformer.h, model.transformer.ln_f, model.lm_head
    return model.model.layers, model.model.norm, model.lm_head


def attention_of(layer):
    return layer.attn if hasattr(layer, "attn") else layer.self_attn
