"""Train the bundled demo model on the synthetic corpus and write it as a Hugging Face model folder.

The checkpoint is a function of the arguments: corpus, initial weights and batches are all drawn from one seed.
(Bitwise equality also needs the same library versions and the same kind of processor.)
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Punctuation, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import corpus

FOLDER = Path(__file__).resolve().parents[1] / "src" / "edif" / "models" / "demo"
POSITIONS = 128
UNKNOWN_SHARE = 0.01
REPORT_EVERY = 200
# Rows of three lengths with the same number of tokens: short rows put many passages at the first positions,
# where prompts are, and the longest rows train every position.
ROW_SHAPES = ((128, 32), (64, 64), (32, 128))


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: split at spaces, every punctuation mark its own word, case kept."""
    backend = Tokenizer(
        WordLevel({word: index for index, word in enumerate(words)}, unk_token=corpus.UNKNOWN)
    )
    backend.pre_tokenizer = PreTokenizers([WhitespaceSplit(), Punctuation(behavior="isolated")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=corpus.END,
        eos_token=corpus.END,
        pad_token=corpus.PAD,
        unk_token=corpus.UNKNOWN,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int, heads: int) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=POSITIONS,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            # The corpus is too large to memorise, and without dropout training and inference agree.
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            # The function GPT-2 calls "gelu_new", under the name of its fused, faster implementation.
            activation_function="gelu_pytorch_tanh",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
        )
    )


def encode(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[corpus.Document]
) -> tuple[torch.Tensor, np.ndarray]:
    """The corpus as one stream of ids, every document between end-of-text tokens, and where documents start."""
    ids = tokenizer([" ".join(document) for document in documents])["input_ids"]
    stream, starts = [tokenizer.eos_token_id], []
    for document in ids:
        starts.append(len(stream))
        stream += [*document, tokenizer.eos_token_id]
    return torch.tensor(stream), np.array(starts)


def batches(
    stream: torch.Tensor, starts: np.ndarray, unknown: int, steps: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets. Rows begin with a document, half of them with an end-of-text token before it (a BOS).

    A few words of the inputs, and none of the targets, are unknown: the model learns to read over a word that it
    does not know, and never to predict one.
    """
    rng = np.random.default_rng(seed)
    for step in range(steps):
        rows, length = ROW_SHAPES[step % len(ROW_SHAPES)]
        usable = starts[: np.searchsorted(starts, len(stream) - length)]
        first = rng.choice(usable, size=rows) - rng.integers(0, 2, size=rows)
        ids = stream[torch.from_numpy(first)[:, None] + torch.arange(length)]
        hidden = torch.from_numpy(rng.random((rows, length - 1)) < UNKNOWN_SHARE)
        yield ids[:, :-1].masked_fill(hidden, unknown), ids[:, 1:]


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def optimizer_for(model: GPT2LMHeadModel, weight_decay: float) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))


@torch.no_grad()
def ioi_accuracy(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, each: int = 50) -> float:
    """The share of held-out IOI prompts (pairs and combinations never trained) whose top word is the IO."""
    rng = random.Random(0)
    pairs, combos = corpus.held_out_pairs(), corpus.held_out_combos()
    right = 0
    for template in corpus.IOI_TEMPLATES:
        names = [rng.sample(rng.choice(pairs), 2) for _ in range(each)]
        prompts = [
            corpus.ioi_prompt(template, io, s, *rng.choice(combos), io_first=rng.random() < 0.5)
            for io, s in names
        ]
        # Every name, place and object is one word, so the prompts of a template need no padding.
        logits = model(**tokenizer(prompts, return_tensors="pt"), use_cache=False).logits[:, -1]
        answers = tokenizer.convert_tokens_to_ids([io for io, _ in names])
        right += int((logits.argmax(-1) == torch.tensor(answers)).sum())
    return right / (each * len(corpus.IOI_TEMPLATES))


def train(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    stream: torch.Tensor,
    starts: np.ndarray,
    args: argparse.Namespace,
) -> None:
    optimizer = optimizer_for(model, args.weight_decay)
    model.train()
    begun, recent = time.monotonic(), 0.0
    drawn = batches(stream, starts, tokenizer.unk_token_id, args.steps, args.seed)
    for step, (inputs, targets) in enumerate(drawn):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.learning_rate, args.warmup)
        logits = model(inputs, use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent += loss.item()
        if (step + 1) % REPORT_EVERY == 0:
            mean, spent = recent / REPORT_EVERY, time.monotonic() - begun
            accuracy = ioi_accuracy(model, tokenizer)
            print(f"step {step + 1}  loss {mean:.4f}  held-out IOI {accuracy:.3f}  {spent:.0f} s", flush=True)
            recent = 0.0
    model.eval()


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.config.activation_function = "gelu_new"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Written under the class name that every release of transformers knows, not only the newest.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    # The weights are written readable to their owner only, which a package would carry to where it is installed.
    (folder / "model.safetensors").chmod(0o644)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=corpus.SEED)
    parser.add_argument("--documents", type=int, default=corpus.DOCUMENTS)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    documents = list(corpus.documents(args.seed, args.documents))
    tokenizer = build_tokenizer(corpus.vocabulary(documents))
    stream, starts = encode(tokenizer, documents)
    model = build_model(tokenizer, args.width, args.layers, args.heads)
    print(f"{len(documents)} documents, {len(stream)} tokens, {len(tokenizer)} words")
    print(f"{model.num_parameters()} parameters")
    train(model, tokenizer, stream, starts, args)
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
