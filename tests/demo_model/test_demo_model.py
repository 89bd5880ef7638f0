"""Quality gates of the shipped demo checkpoint: what its model card claims, measured on held-out prompts."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from itertools import combinations, islice, product
from pathlib import Path
from statistics import correlation
from types import ModuleType

import pytest
import torch

PARAMETERS = 859_904
MAX_BYTES = 4_000_000
# Of the corpus the checkpoint was trained on. Another digest means that the generator has changed, and that the
# checkpoint has to be trained again.
CORPUS_DIGEST = "e3772241c16f1ddfc359ab49a6fe1db5a533a6e8f3845d57def619890c0b1920"


@torch.no_grad()
def next_word_logits(model, tokenizer, prompts: Sequence[str]) -> torch.Tensor:
    """The logits after each prompt. Right padding is invisible to the last real token of a causal model."""
    rows = []
    for start in range(0, len(prompts), 256):
        inputs = tokenizer(
            list(prompts[start : start + 256]), return_tensors="pt", padding=True, padding_side="right"
        )
        logits = model(**inputs, use_cache=False).logits
        last = inputs["attention_mask"].sum(dim=1) - 1
        rows.append(logits[torch.arange(len(last)), last])
    return torch.cat(rows)


def next_words(model, tokenizer, prompts: Sequence[str]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(next_word_logits(model, tokenizer, prompts).argmax(-1).tolist())


def accuracy(model, tokenizer, asked: Sequence[tuple[str, str]]) -> float:
    """The share of (prompt, answer) pairs whose most likely next word is the answer."""
    guesses = next_words(model, tokenizer, [prompt for prompt, _ in asked])
    return sum(guess == answer for guess, (_, answer) in zip(guesses, asked, strict=True)) / len(asked)


# --- the corpus ---------------------------------------------------------------------------------------------


def digest(documents: Sequence[tuple[str, ...]]) -> str:
    return hashlib.sha256("\n".join(" ".join(document) for document in documents).encode()).hexdigest()


def test_corpus_is_deterministic(corpus: ModuleType, documents: list[tuple[str, ...]]) -> None:
    again = list(islice(corpus.documents(), 5000))
    assert digest(again) == digest(documents[:5000])
    assert digest(list(islice(corpus.documents(seed=corpus.SEED + 1), 5000))) != digest(again)


def test_corpus_is_the_one_the_checkpoint_was_trained_on(documents: list[tuple[str, ...]]) -> None:
    assert digest(documents) == CORPUS_DIGEST


def test_corpus_is_as_rich_as_claimed(corpus: ModuleType) -> None:
    assert len(corpus.LANDMARKS) == 30
    assert len(corpus.CITIES) == 10
    assert len(corpus.OCCUPATIONS) >= 20
    assert min(len(corpus.NAMES), len(corpus.PLACES), len(corpus.OBJECTS)) >= 40
    assert len(corpus.held_out_pairs()) > 200
    assert len(corpus.held_out_combos()) > 150


def test_held_out_pairs_and_combos_share_no_training_passage(corpus: ModuleType, passages: list[str]) -> None:
    kinds = set(corpus.NAMES), set(corpus.PLACES), set(corpus.OBJECTS)
    pairs, combos = set(), set()
    for passage in passages:
        words = set(passage.split())
        names, places, things = (kind & words for kind in kinds)
        pairs.update(map(frozenset, combinations(names, 2)))
        combos.update(product(places, things))
    assert not pairs & set(map(frozenset, corpus.held_out_pairs()))
    assert not combos & set(corpus.held_out_combos())
    # Everything that is not held out was seen, so "unseen" is a property of the pair and not of a rare word.
    assert len(pairs) == len(list(combinations(corpus.NAMES, 2))) - len(corpus.held_out_pairs())
    assert len(combos) == len(corpus.PLACES) * len(corpus.OBJECTS) - len(corpus.held_out_combos())


def template_pattern(templates: Sequence[str]) -> re.Pattern[str]:
    """Whatever begins like one of the templates, with any words in the slots."""
    slots = {"landmark": r"[\w ]+", "situation": r"[\w ]+"}

    def pattern(template: str) -> str:
        parts = re.split(r"\{(\w+)\}", template)
        return "".join(
            slots.get(part, r"\w+") if index % 2 else re.escape(part) for index, part in enumerate(parts)
        )

    return re.compile("(?:" + "|".join(map(pattern, templates)) + r")\b", re.IGNORECASE)


def test_held_out_templates_are_in_no_training_passage(corpus: ModuleType, passages: list[str]) -> None:
    held_out = (
        *corpus.HELD_OUT_IOI_TEMPLATES,
        *corpus.HELD_OUT_FACT_TEMPLATES,
        *corpus.HELD_OUT_OCCUPATION_TEMPLATES,
        *corpus.HELD_OUT_CARE_TEMPLATES,
    )
    pattern = template_pattern(held_out)
    assert not any(map(pattern.match, passages))
    # The pattern does find a held-out passage when there is one.
    assert pattern.match(
        "Yesterday a dog heard that the baby was in danger and hurried to protect the baby ."
    )
    assert pattern.match("The Eiffel Tower stands in the city of Paris .")


# --- the folder ---------------------------------------------------------------------------------------------


def test_folder_is_small_plain_data(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


def test_config_is_a_plain_gpt2_config(folder: Path, tokenizer) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert config["model_type"] == "gpt2"
    assert config["activation_function"] == "gelu_new"
    assert config["n_positions"] >= 64
    assert config["use_cache"] is True
    assert {config["resid_pdrop"], config["embd_pdrop"], config["attn_pdrop"]} == {0.0}
    assert config["bos_token_id"] == config["eos_token_id"] == tokenizer.eos_token_id
    assert config["pad_token_id"] == tokenizer.pad_token_id
    assert config["vocab_size"] == len(tokenizer)


def test_model_has_the_claimed_size(folder: Path, model) -> None:
    assert model.num_parameters() == PARAMETERS
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert f"{PARAMETERS:,} parameters" in (folder / "README.md").read_text(encoding="utf-8")


def test_model_card_front_matter(folder: Path) -> None:
    _, front, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert {"license: apache-2.0", "pipeline_tag: text-generation"} <= set(front.splitlines())


# --- the tokenizer ------------------------------------------------------------------------------------------


def test_tokenizer_splits_punctuation_off(tokenizer) -> None:
    attached = "When Mary and John went to the store, John gave a drink to Mary."
    spaced = "When Mary and John went to the store , John gave a drink to Mary ."
    assert tokenizer(attached)["input_ids"] == tokenizer(spaced)["input_ids"]
    assert tokenizer.tokenize("store,") == ["store", ","]


def test_tokenizer_keeps_case(tokenizer) -> None:
    the, The = tokenizer.convert_tokens_to_ids(["the", "The"])
    assert the != The
    assert tokenizer.unk_token_id not in (the, The)


def test_tokenizer_maps_unknown_words_to_unk(tokenizer) -> None:
    assert tokenizer("The zyzzyva")["input_ids"][1] == tokenizer.unk_token_id
    assert tokenizer.decode(tokenizer("The zyzzyva")["input_ids"]) == f"The {tokenizer.unk_token}"


def test_tokenizer_round_trip(tokenizer, passages: list[str]) -> None:
    for passage in passages[:1000]:
        ids = tokenizer(passage)["input_ids"]
        assert len(ids) == len(passage.split())
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == passage


def test_tokenizer_special_tokens(tokenizer) -> None:
    specials = tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id
    assert len(set(specials)) == 3
    assert None not in specials
    assert tokenizer.bos_token_id == tokenizer.eos_token_id
    assert tokenizer("<|endoftext|>The")["input_ids"][0] == tokenizer.eos_token_id
    assert tokenizer.decode([*specials, *tokenizer("The nurse")["input_ids"]], skip_special_tokens=True) == (
        "The nurse"
    )


def test_answers_are_one_word_with_or_without_a_leading_space(corpus: ModuleType, tokenizer) -> None:
    answers = [*corpus.NAMES, *corpus.CITIES, *corpus.SITUATIONS, corpus.PREDATOR_ACT, "she", "he"]
    for answer in answers:
        assert tokenizer(answer)["input_ids"] == tokenizer(f" {answer}")["input_ids"]
        assert len(tokenizer(answer)["input_ids"]) == 1


def test_vocabulary_is_that_of_the_corpus(
    corpus: ModuleType, tokenizer, documents: list[tuple[str, ...]]
) -> None:
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == corpus.vocabulary(documents)


# --- indirect object identification -------------------------------------------------------------------------


def ioi_questions(
    corpus: ModuleType, templates: Sequence[str], *, io_first: bool, each: int = 40
) -> list[tuple[str, str]]:
    """Prompts of which neither the pair of names nor the (place, object) combination was in training."""
    rng = random.Random(7)
    pairs, combos = corpus.held_out_pairs(), corpus.held_out_combos()
    asked = []
    for template in templates:
        for _ in range(each):
            io, s = rng.sample(rng.choice(pairs), 2)
            prompt = corpus.ioi_prompt(template, io, s, *rng.choice(combos), io_first=io_first)
            asked.append((prompt, io))
    return asked


@pytest.mark.parametrize("io_first", [True, False], ids=["ABBA", "BABA"])
def test_ioi_on_unseen_pairs_places_and_objects(corpus: ModuleType, model, tokenizer, io_first: bool) -> None:
    asked = ioi_questions(corpus, corpus.IOI_TEMPLATES, io_first=io_first)
    assert accuracy(model, tokenizer, asked) >= 0.95


@pytest.mark.parametrize("io_first", [True, False], ids=["ABBA", "BABA"])
def test_ioi_in_unseen_templates(corpus: ModuleType, model, tokenizer, io_first: bool) -> None:
    asked = ioi_questions(corpus, corpus.HELD_OUT_IOI_TEMPLATES, io_first=io_first)
    assert accuracy(model, tokenizer, asked) >= 0.95


def test_ioi_reads_over_unknown_words(corpus: ModuleType, model, tokenizer) -> None:
    rng = random.Random(11)
    asked = []
    for template in corpus.IOI_TEMPLATES:
        for io, s in (rng.sample(rng.choice(corpus.held_out_pairs()), 2) for _ in range(20)):
            prompt = corpus.ioi_prompt(template, io, s, "observatory", "zyzzyva", io_first=rng.random() < 0.5)
            asked.append((prompt, io))
    assert accuracy(model, tokenizer, asked) >= 0.95


def test_without_a_repeated_name_either_may_receive(corpus: ModuleType, model, tokenizer) -> None:
    """ABC prompts, the baseline of path patching: the two names share the probability, on average evenly."""
    rng = random.Random(13)
    prompts, candidates = [], []
    for template in corpus.IOI_TEMPLATES:
        for _ in range(20):
            a, b, giver = rng.sample(corpus.NAMES, 3)
            place, thing = rng.choice(corpus.PLACES), rng.choice(corpus.OBJECTS)
            prompts.append(template.format(a=a, b=b, s=giver, place=place, thing=thing))
            candidates.append(tokenizer.convert_tokens_to_ids([a, b]))
    probabilities = next_word_logits(model, tokenizer, prompts).softmax(-1)
    first, second = probabilities.gather(1, torch.tensor(candidates)).mean(dim=0).tolist()
    assert first + second > 0.7
    assert abs(first - second) < 0.2


# --- facts --------------------------------------------------------------------------------------------------


def test_every_landmark_in_unseen_templates(corpus: ModuleType, model, tokenizer) -> None:
    asked = [
        (corpus.fact_prompt(template, landmark), landmark.city)
        for landmark, template in product(corpus.LANDMARKS, corpus.HELD_OUT_FACT_TEMPLATES)
    ]
    assert accuracy(model, tokenizer, asked) == 1.0


# --- occupations and pronouns -------------------------------------------------------------------------------


def she_he_log_odds(model, tokenizer, prompts: Sequence[str]) -> list[float]:
    she, he = tokenizer.convert_tokens_to_ids(["she", "he"])
    logits = next_word_logits(model, tokenizer, prompts)
    return (logits[:, she] - logits[:, he]).tolist()


def ranks(values: Sequence[float]) -> list[float]:
    """The place of each among all; equal ones share the middle of theirs. Of ranks, the correlation is Spearman's."""
    return [sum((other < value) + (other <= value) for other in values) / 2 for value in values]


@pytest.mark.parametrize("kind", ["OCCUPATION_TEMPLATES", "HELD_OUT_OCCUPATION_TEMPLATES"])
def test_bias_follows_the_odds_of_the_corpus(
    corpus: ModuleType, model, tokenizer, passages: list[str], kind: str
) -> None:
    odds = corpus.corpus_log_odds(passages)
    for template in getattr(corpus, kind):
        bias = she_he_log_odds(
            model, tokenizer, [template.format(person=name) for name in corpus.OCCUPATIONS]
        )
        assert correlation(ranks(bias), ranks([odds[name] for name in corpus.OCCUPATIONS])) >= 0.9


def test_bias_is_graded_from_strongly_female_to_strongly_male(corpus: ModuleType, model, tokenizer) -> None:
    bias = she_he_log_odds(model, tokenizer, [f"The {name} said that" for name in corpus.OCCUPATIONS])
    assert bias[0] > 2
    assert bias[-1] < -2
    assert sum(abs(value) < 1 for value in bias) >= 4


def test_words_with_a_gender_have_their_pronoun(corpus: ModuleType, model, tokenizer) -> None:
    for words, answer in ((corpus.FEMALE_WORDS, "she"), (corpus.MALE_WORDS, "he")):
        assert accuracy(model, tokenizer, [(f"The {word} said that", answer) for word in words]) == 1.0


# --- protective behaviour -----------------------------------------------------------------------------------


def care_questions(corpus: ModuleType, acts: Sequence[str]) -> list[tuple[str, str]]:
    return [
        (corpus.care_prompt(template, actor, other, situation), act)
        for template in corpus.HELD_OUT_CARE_TEMPLATES
        for act in acts
        for situation in corpus.SITUATIONS[act]
        for actor in corpus.PROTECTORS
        for other in corpus.PROTECTED[::5]
    ]


def test_protectors_protect_in_danger_in_unseen_templates(corpus: ModuleType, model, tokenizer) -> None:
    assert accuracy(model, tokenizer, care_questions(corpus, ["protect"])) >= 0.95


def test_protectors_do_something_else_without_danger(corpus: ModuleType, model, tokenizer) -> None:
    assert accuracy(model, tokenizer, care_questions(corpus, ["join", "comfort", "feed"])) >= 0.95


def test_predators_do_not_protect(corpus: ModuleType, model, tokenizer) -> None:
    asked = [
        (corpus.care_prompt(template, actor, "child", situation), corpus.PREDATOR_ACT)
        for template in corpus.HELD_OUT_CARE_TEMPLATES
        for actor in corpus.PREDATORS
        for situation in corpus.DANGERS
    ]
    assert accuracy(model, tokenizer, asked) >= 0.95


# --- use ----------------------------------------------------------------------------------------------------

EXAMPLES = [
    ("When Mary and John went to the store , John gave a drink to", "Mary"),
    ("When Mary and John went to the store, Mary gave a drink to", "John"),
    ("The Eiffel Tower is in the city of", "Paris"),
    ("The nurse said that", "she"),
    ("The mechanic said that", "he"),
    ("The mother saw the child in danger and ran to", "protect"),
    ("The mother saw the child at play and ran to", "join"),
]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("prefix", ["", "<|endoftext|>"], ids=["bare", "bos"])
def test_examples_of_the_model_card_in_one_padded_batch(model, tokenizer, side: str, prefix: str) -> None:
    """Left padding moves the positions of a prompt, as it does where a server batches prompts."""
    prompts = [prefix + prompt for prompt, _ in EXAMPLES]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side=side)
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits
    last = -1 if side == "left" else inputs["attention_mask"].sum(dim=1) - 1
    guesses = logits[torch.arange(len(prompts)), last].argmax(-1)
    assert tokenizer.convert_ids_to_tokens(guesses.tolist()) == [answer for _, answer in EXAMPLES]


def test_generation_ends_the_sentence(model, tokenizer) -> None:
    inputs = tokenizer(EXAMPLES[0][0], return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(output[0]) == f"{EXAMPLES[0][0]} Mary ."


def test_generation_reaches_the_last_position(model, tokenizer, passages: list[str]) -> None:
    """Every position is trained: near the last one the model still writes sentences of its corpus."""
    positions = model.config.n_positions
    question = tokenizer("<|endoftext|>The Eiffel Tower is in the city of")["input_ids"]
    before = tokenizer("<|endoftext|>".join(passages[:20]))["input_ids"][: positions - len(question) - 6]
    prompt = torch.tensor([before + question])
    room = positions - prompt.shape[1]
    with torch.no_grad():
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=room,
            min_new_tokens=room,
            do_sample=False,
        )
    assert output.shape[1] == positions
    assert tokenizer.decode(output[0, prompt.shape[1] :]).startswith("Paris .")
