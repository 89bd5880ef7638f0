"""Tiny models made on the spot: GPT-2 and Llama architecture, with a word-level tokenizer.

They are random but seeded, so their numbers are stable on one machine. Run as a script to make them:
``python -m tests.support.models FOLDER``; importing torch in the test process itself is not needed.
"""

import subprocess
import sys
from pathlib import Path

GPT2_ID = "tiny/gpt2"
LLAMA_ID = "tiny/llama"
LORA_ID = "tiny/gpt2-lora"

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "tree",
    "and",
    "then",
    "Mary",
    "John",
    "gave",
    "book",
    "to",
    "store",
    "went",
    "saw",
    "it",
    "was",
    "blue",
    "red",
    "one",
    "two",
    "three",
    ".",
    ",",
    "?",
]


def make_models(folder: Path) -> dict[str, Path]:
    """Write the models below ``folder`` (once) and return their folders by id."""
    paths = {name: folder / name.replace("/", "--") for name in (GPT2_ID, LLAMA_ID, LORA_ID)}
    if not all((path / "done").exists() for path in paths.values()):
        subprocess.run([sys.executable, __file__, str(folder)], check=True)
    return paths


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<unk>", "<eos>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", eos_token="<eos>", bos_token="<eos>", pad_token="<eos>"
    ).save_pretrained(folder)


def _main(folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    size = len(WORDS) + 2
    paths = {name: folder / name.replace("/", "--") for name in (GPT2_ID, LLAMA_ID, LORA_ID)}
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size, n_positions=64, n_embd=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=1
        )
    )
    torch.manual_seed(1)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    for model, name in ((gpt2, GPT2_ID), (llama, LLAMA_ID)):
        model.save_pretrained(paths[name])
        _tokenizer(paths[name])
    torch.manual_seed(2)
    lora = get_peft_model(
        gpt2, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    )
    lora.save_pretrained(paths[LORA_ID])
    for path in paths.values():
        (path / "done").write_text("")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
