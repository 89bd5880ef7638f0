"""Whether prompts of different length can share passes of a model: found out for real architectures, refused where padding shows."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from edif.core.limits import Padding
from edif.executor.merging.layout import Layout, Shown
from edif.executor.merging.learning import learn
from edif.executor.merging.leaves import Kind, LeafLayout, PaddedLeaf, Share, Unservable
from edif.executor.merging.request import Request, Way
from edif.worker.environment import environment_from
from tests.unit.executor.merging import tiny

PASS = Way(generates=False, masked=False, positioned=False)
GENERATION = PASS._replace(generates=True)


def learned(model: Any, tolerance: float = tiny.TOLERANCE, padding: Padding = Padding.ON) -> Layout:
    layout, why_not = learn(model, tolerance, padding)
    assert layout is not None
    assert why_not == ""
    return layout


def hidden_from_the_padded(layout: Layout) -> set[str]:
    """Names of locations whose values are not shown where prompts are padded."""
    return {place.name for place in layout.locations if None in place.padded.values()}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mixtral"])
def test_an_ordinary_model_is_padded_and_every_value_shown(architecture: str, implementation: str) -> None:
    layout = learned(tiny.attending(getattr(tiny, architecture), implementation))
    assert layout.pads == {PASS, GENERATION}
    assert layout.why_unpadded == []
    assert layout.padded_difference is not None
    assert 0 < layout.padded_difference <= tiny.TOLERANCE, (
        "the prompts are long enough for other kernels to run"
    )
    unknown = {each for each in hidden_from_the_padded(layout) if ".experts.act_fn." not in each}
    assert unknown == set()
    assert all(place.padded for place in layout.locations)


@pytest.mark.parametrize("name", ["attention_mask", "position_ids"])
def test_a_model_that_takes_no_notice_of_padding_is_refused(name: str) -> None:
    layout = learned(tiny.gpt2_ignoring(name))
    assert layout.pads == set()
    assert layout.padded_difference is not None
    assert layout.padded_difference > 1000 * tiny.TOLERANCE
    passes, generations = layout.why_unpadded
    assert passes.startswith("passes: values differ by ")
    assert generations.startswith("generations: values differ by ")


def test_a_model_that_fails_with_padding_says_how() -> None:
    def fails_in_batches(hidden: torch.Tensor) -> torch.Tensor:
        if len(hidden) > 3:
            raise ValueError("no more than three")
        return hidden

    layout = learned(tiny.changed_gpt2(fails_in_batches))
    assert (layout.pads, layout.padded_difference) == (set(), None)
    assert layout.why_unpadded == [
        f"{way}: it could not be measured (ValueError: no more than three)"
        for way in ("passes", "generations")
    ]


def test_one_value_that_cannot_be_compared_is_not_shown_and_does_not_keep_the_model_from_padding() -> None:
    layout = learned(tiny.gpt2_beside(lambda hidden: {hidden: 1}))
    assert layout.pads == {PASS, GENERATION}
    layout = learned(tiny.gpt2_beside(lambda hidden: hidden.to(torch.float8_e4m3fn)))
    assert layout.pads == {PASS, GENERATION}


def test_a_model_that_does_not_keep_within_the_tolerance_is_refused() -> None:
    layout = learned(tiny.changed_gpt2(lambda hidden: hidden * (1 + hidden.shape[1] / 10_000)))
    assert layout.padded_difference is not None
    assert layout.padded_difference > tiny.TOLERANCE > layout.difference
    assert layout.pads == set()


BY_DEFAULT = """
from edif.core.limits import Padding
from edif.executor.merging.learning import learn
from tests.unit.executor.merging import tiny
layout, _ = learn(tiny.gpt2(), 64.0, Padding.AUTO)
print(layout.difference, layout.padded_difference, layout.pads)
"""


def test_by_default_a_model_whose_batches_keep_the_bits_is_not_padded() -> None:
    """In an environment such as the processes of a replica have."""
    environment = environment_from(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[4])}
    found = subprocess.run(
        [sys.executable, "-c", BY_DEFAULT], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["0.0", "None", "set()"]


def test_and_one_whose_batches_do_not_is() -> None:
    layout = learned(tiny.changed_gpt2(lambda hidden: hidden + len(hidden) * 1e-6), padding=Padding.AUTO)
    assert layout.difference > 0
    assert layout.pads == {PASS, GENERATION}


def test_nor_is_one_for_which_padding_is_off() -> None:
    layout = learned(tiny.changed_gpt2(lambda hidden: hidden + len(hidden) * 1e-6), padding=Padding.OFF)
    assert (layout.pads, layout.why_unpadded) == (set(), [])


@pytest.mark.parametrize(
    ("name", "value"),
    [("repetition_penalty", 1.2), ("no_repeat_ngram_size", 2), ("min_length", 9), ("bad_words_ids", [[0]])],
)
def test_a_model_that_by_default_looks_back_at_the_prompt_generates_without_padding(
    name: str, value: Any
) -> None:
    model = tiny.gpt2()
    setattr(model._module.generation_config, name, value)
    layout = learned(model)
    assert layout.pads == {PASS}
    assert layout.why_unpadded == [
        f"generations: the next token depends on the prompt by the model's own {name}"
    ]


def test_prompts_are_padded_as_far_as_the_models_attention_reaches() -> None:
    config = MistralConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        sliding_window=32,
    )
    layout = learned(tiny.wrapped(MistralForCausalLM(config)))
    assert layout.longest == 32
    assert [
        layout.bucket(Request(False, torch.zeros(1, tokens, dtype=torch.int64))) is None
        for tokens in (32, 33)
    ] == [False, True]


def test_a_model_for_short_prompts_only_is_not_padded() -> None:
    model = tiny.gpt2()
    model._module.config.n_positions = 22
    layout = learned(model)
    assert layout.padded_difference is None
    assert layout.pads == set()
    assert "no prompts of 21 tokens" in layout.why_unpadded[0]


@pytest.mark.parametrize(
    ("compute", "shown"),
    [
        (lambda hidden: hidden.flatten(0, 1), True),
        (lambda hidden: hidden.transpose(0, 1).contiguous(), True),
        (lambda hidden: hidden @ hidden.transpose(1, 2), True),
        (lambda hidden: hidden[:, -1], True),
        (lambda hidden: (hidden, "a word", 3), True),
        (lambda hidden: (hidden, hidden.shape[1]), False),
        (lambda hidden: torch.arange(hidden.shape[1]), False),
        (lambda hidden: hidden.flatten(1), False),
        (lambda hidden: torch.zeros(hidden.shape[0], hidden.shape[1] // 8 * 8), False),
    ],
    ids=range(9),
)
def test_what_is_computed_beside(compute: Callable[[torch.Tensor], Any], shown: bool) -> None:
    layout = learned(tiny.gpt2_beside(compute))
    assert layout.pads == {PASS, GENERATION}
    assert (tiny.ASIDE not in hidden_from_the_padded(layout)) is shown


def test_what_is_computed_of_all_positions_together_has_the_padding_in_it() -> None:
    assert learned(tiny.gpt2_beside(lambda hidden: hidden.mean(1))).pads == set()


# -- one tensor --------------------------------------------------------------------------------------------
VALUE = torch.arange(4.0 * 6 * 6 * 2).view(4, 6, 6, 2)
"""Four rows of six tokens, and again tokens."""
ROWS = LeafLayout(Kind.ROWS, 0, tracked=False)


def test_of_each_row_the_last_positions_are_shown() -> None:
    leaf = PaddedLeaf(ROWS, whole=False, tokens={1, 2})
    shown = leaf.part(VALUE, Share(1, 2, 4, padding=2), frozenset({6}))
    assert torch.equal(shown, VALUE[1:3, 2:, 2:])
    assert shown.data_ptr() == VALUE[1, 2, 2].data_ptr(), "a view"
    step = VALUE[:, :1]
    assert torch.equal(leaf.part(step, Share(1, 2, 4, padding=2), frozenset({6})), step[1:3, :, 2:])
    assert torch.equal(leaf.part(VALUE[:, :, 0, 0], Share(3, 1, 4, 5), frozenset({6})), VALUE[3:, 5:, 0, 0])


def test_of_what_alone_is_the_same_for_all_rows_one_is_shown_and_not_changed() -> None:
    leaf = PaddedLeaf(ROWS, whole=True, tokens={1})
    assert torch.equal(leaf.part(VALUE, Share(1, 2, 4, padding=2), frozenset({6})), VALUE[1:2, 2:])
    assert not leaf.writable
    assert PaddedLeaf(ROWS, whole=False).writable


def test_rows_one_behind_the_other_are_shown_to_one_row() -> None:
    flat = VALUE[..., 0].flatten(0, 1)
    leaf = PaddedLeaf(LeafLayout(Kind.FLAT, 0, tracked=False), whole=False, tokens={0})
    assert torch.equal(leaf.part(flat, Share(2, 1, 4, padding=2), frozenset({6})), flat[14:18])
    assert torch.equal(leaf.part(flat, Share(2, 2, 4, padding=0), frozenset({6})), flat[12:24])
    assert torch.equal(leaf.part(flat[::6], Share(2, 2, 4, padding=2), frozenset({6})), flat[::6][2:])
    with pytest.raises(Unservable):
        leaf.part(flat, Share(2, 2, 4, padding=2), frozenset({6}))


def test_a_dimension_of_another_size_is_not_shown() -> None:
    """As in a cache that forgets what is long ago."""
    leaf = PaddedLeaf(ROWS, whole=False, tokens={1})
    with pytest.raises(Unservable):
        leaf.part(VALUE, Share(1, 1, 4, padding=2), frozenset({7, 8}))


def test_numbers_are_those_of_the_pass_where_it_has_them_too() -> None:
    assert [*Shown(0, [], [(1, False), (None, "alone")]).scalars_of([3, True])] == [True, "alone"]
    assert Shown(0, []).scalars_of([3, True]) == [3, True]
