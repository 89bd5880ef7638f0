"""What the tiny models reach in a forward pass, in order, and how a program writes it down."""

from dataclasses import dataclass

HIDDEN = 32
VOCABULARY = 32
HEADS = 4
LAYERS = {"gpt2": 4, "llama": 3}


@dataclass(frozen=True, slots=True)
class Place:
    """One value that a program can read or edit.

    Attributes:
        path: the module, as it is written after the model's name; "" is the model itself.
        slot: ``output``, ``input`` or ``inputs``.
        within: what leads from the slot's value to the tensor, such as ``[0]``.
        width: of the tensor's last dimension; 0 for token ids.
        group: what it is: embedding, block, attention, mlp, norm, inner, head, root, unbatched, tokens.
        layer: the number of its block, -1 outside of blocks.
    """

    path: str
    slot: str
    within: str
    width: int
    group: str
    layer: int = -1

    def module(self, model: str) -> str:
        return f"{model}.{self.path}" if self.path else model

    def value(self, model: str) -> str:
        return f"{self.module(model)}.{self.slot}"

    def tensor(self, model: str) -> str:
        return f"{self.value(model)}{self.within}"


def places(family: str) -> tuple[Place, ...]:
    """All places of a forward pass, in the order in which the model reaches them."""
    found = _gpt2() if family == "gpt2" else _llama()
    return (*found, *_end())


def backbone(family: str) -> tuple[str, str]:
    """Where the blocks are, and the norm after them."""
    return ("transformer.h", "transformer.ln_f") if family == "gpt2" else ("model.layers", "model.norm")


def attention(family: str) -> tuple[str, str]:
    """The name of a block's attention, and within it of the projection whose input are the heads side by side."""
    return ("attn", "c_proj") if family == "gpt2" else ("self_attn", "o_proj")


def _end() -> list[Place]:
    return [
        Place("lm_head", "input", "", HIDDEN, "head"),
        Place("lm_head", "output", "", VOCABULARY, "head"),
        Place("", "output", ".logits", VOCABULARY, "root"),
    ]


def _gpt2() -> list[Place]:
    found = [
        Place("transformer.wte", "input", "", 0, "tokens"),
        Place("transformer.wte", "output", "", HIDDEN, "embedding"),
        Place("transformer.wpe", "output", "", HIDDEN, "unbatched"),
        Place("transformer.drop", "output", "", HIDDEN, "embedding"),
    ]
    for number in range(LAYERS["gpt2"]):
        block = f"transformer.h[{number}]"
        found += [
            Place(block, "input", "", HIDDEN, "block", number),
            Place(f"{block}.ln_1", "output", "", HIDDEN, "norm", number),
            Place(f"{block}.attn", "input", "", HIDDEN, "attention", number),
            Place(f"{block}.attn.c_attn", "output", "", 3 * HIDDEN, "inner", number),
            Place(f"{block}.attn.c_proj", "input", "", HIDDEN, "inner", number),
            Place(f"{block}.attn.c_proj", "output", "", HIDDEN, "inner", number),
            Place(f"{block}.attn", "output", "[0]", HIDDEN, "attention", number),
            Place(f"{block}.ln_2", "input", "", HIDDEN, "norm", number),
            Place(f"{block}.mlp", "input", "", HIDDEN, "mlp", number),
            Place(f"{block}.mlp.c_fc", "output", "", 4 * HIDDEN, "inner", number),
            Place(f"{block}.mlp.act", "output", "", 4 * HIDDEN, "inner", number),
            Place(f"{block}.mlp.c_proj", "input", "", 4 * HIDDEN, "inner", number),
            Place(f"{block}.mlp", "output", "", HIDDEN, "mlp", number),
            Place(block, "output", "", HIDDEN, "block", number),
        ]
    return [
        *found,
        Place("transformer.ln_f", "input", "", HIDDEN, "norm"),
        Place("transformer.ln_f", "output", "", HIDDEN, "norm"),
        Place("transformer", "output", ".last_hidden_state", HIDDEN, "root"),
    ]


def _llama() -> list[Place]:
    found = [
        Place("model.embed_tokens", "input", "", 0, "tokens"),
        Place("model.embed_tokens", "output", "", HIDDEN, "embedding"),
        Place("model.rotary_emb", "output", "[0]", HIDDEN // HEADS, "unbatched"),
    ]
    for number in range(LAYERS["llama"]):
        block = f"model.layers[{number}]"
        found += [
            Place(block, "input", "", HIDDEN, "block", number),
            Place(f"{block}.input_layernorm", "output", "", HIDDEN, "norm", number),
            Place(f"{block}.self_attn", "input", "", HIDDEN, "attention", number),
            Place(f"{block}.self_attn.q_proj", "output", "", HIDDEN, "inner", number),
            Place(f"{block}.self_attn.v_proj", "output", "", HIDDEN // 2, "inner", number),
            Place(f"{block}.self_attn.o_proj", "input", "", HIDDEN, "inner", number),
            Place(f"{block}.self_attn", "output", "[0]", HIDDEN, "attention", number),
            Place(f"{block}.post_attention_layernorm", "input", "", HIDDEN, "norm", number),
            Place(f"{block}.mlp", "input", "", HIDDEN, "mlp", number),
            Place(f"{block}.mlp.gate_proj", "output", "", 2 * HIDDEN, "inner", number),
            Place(f"{block}.mlp.act_fn", "output", "", 2 * HIDDEN, "inner", number),
            Place(f"{block}.mlp.up_proj", "output", "", 2 * HIDDEN, "inner", number),
            Place(f"{block}.mlp.down_proj", "input", "", 2 * HIDDEN, "inner", number),
            Place(f"{block}.mlp", "output", "", HIDDEN, "mlp", number),
            Place(block, "output", "", HIDDEN, "block", number),
        ]
    return [
        *found,
        Place("model.norm", "input", "", HIDDEN, "norm"),
        Place("model.norm", "output", "", HIDDEN, "norm"),
        Place("model", "output", ".last_hidden_state", HIDDEN, "root"),
    ]
