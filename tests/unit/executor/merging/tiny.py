"""Tiny models for tests of merging, made in the test process: random but seeded, each wrapped as nnsight serves it.

Widths are multiples of 32: in narrower ones the kernels leave a remainder that depends on how many rows there are.
"""

from collections.abc import Callable
from typing import Any

import torch
from nnsight import TransformersModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

VOCABULARY = 64
EOS = 1
TOLERANCE = 64.0
"""In units in the last place: what the kernels of these models may differ by."""


def _tokenizer() -> Any:
    words = {"<unk>": 0, "<eos>": EOS, **{f"w{number}": number for number in range(2, VOCABULARY)}}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", eos_token="<eos>", bos_token="<eos>", pad_token="<eos>"
    )


def attending(build: Callable[[], Any], implementation: str) -> Any:
    """This model, with that implementation of attention."""
    model = build()
    model._module.set_attn_implementation(implementation)
    return model


def wrapped(module: torch.nn.Module) -> Any:
    """The module as the zygote serves it."""
    torch.set_num_threads(1)
    return TransformersModel(module.eval(), tokenizer=_tokenizer())


def _gpt2_module(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=64,
            n_embd=64,
            n_layer=3,
            n_head=2,
            initializer_range=0.2,  # so that it does not say one word again and again
            tie_word_embeddings=False,
            bos_token_id=EOS,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
    )


def gpt2() -> Any:
    return wrapped(_gpt2_module())


def llama() -> Any:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )
    return wrapped(LlamaForCausalLM(config))


def mixtral() -> Any:
    torch.manual_seed(2)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        num_local_experts=4,
        num_experts_per_tok=2,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )
    return wrapped(MixtralForCausalLM(config))


class _Unpadded(GPT2LMHeadModel):
    """Takes no notice of some of what it is called with."""

    ignored = ""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **{**kwargs, self.ignored: None})


def gpt2_ignoring(name: str) -> Any:
    """A GPT-2 for which this argument makes no difference, as for models that have no use for it."""
    module = _gpt2_module()
    module.__class__ = type("Unpadded", (_Unpadded,), {"ignored": name})
    return wrapped(module)


class Changing(torch.nn.Module):
    """A module whose output something is done with."""

    def __init__(self, inner: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.change = change

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.change(self.inner(hidden))


def changed_gpt2(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A GPT-2 with this in its first block."""
    module = _gpt2_module()
    module.transformer.h[0].mlp = Changing(module.transformer.h[0].mlp, change)
    return wrapped(module)


class Aside(torch.nn.Module):
    """What is computed of the hidden states beside the model's own way, and used for nothing."""

    def __init__(self, compute: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, hidden: torch.Tensor) -> Any:
        return self.compute(hidden)


class _WithAside(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module, aside: Aside) -> None:
        super().__init__()
        self.inner = inner
        self.aside = aside

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.aside(hidden)
        return self.inner(hidden)


class ByRows(torch.nn.Module):
    """Comes by a module of its own as often as there are rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Identity()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.inner(each) for each in hidden])


class Unreadable(dict[str, Any]):
    """A mapping that lets nobody see what is in it."""

    def values(self) -> Any:
        raise TypeError("it cannot be read")


ASIDE = "model.transformer.h.0.mlp.aside.output"


def gpt2_beside(compute: Callable[[torch.Tensor], Any]) -> Any:
    """A GPT-2 that computes this of its hidden states, at :data:`ASIDE`."""
    module = _gpt2_module()
    module.transformer.h[0].mlp = _WithAside(module.transformer.h[0].mlp, Aside(compute))
    return wrapped(module)


def prompt(start: int, tokens: int = 5) -> torch.Tensor:
    """One row of ids."""
    return (2 + (start + torch.arange(tokens) * 3) % (VOCABULARY - 2)).view(1, tokens)
