"""Where rows lie: found out for real architectures, refused where rows hang together."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnsight.tracing.backend import Backend

from edif.executor.merging.layout import Layout
from edif.executor.merging.learning import learn
from edif.executor.merging.leaves import Kind, LeafLayout, Unservable
from edif.executor.merging.probes import difference
from edif.executor.merging.request import Way
from tests.unit.executor.merging import tiny
from tests.unit.executor.merging.jobs import Site, all_fit, site
from tests.unit.executor.merging.test_joint_pass import reads

PASS = Way(generates=False, masked=False, positioned=False)
GENERATION = PASS._replace(generates=True)
PADDED = Way(generates=False, masked=True, positioned=True)
PADDED_GENERATION = PADDED._replace(generates=True)
EPS = torch.finfo(torch.float32).eps


def kinds(layout: Layout, name: str, way: Way) -> list[Kind]:
    """Of all leaves of a location's forms."""
    number = layout.number(name)
    assert number is not None, name
    forms = [each for each in layout.locations[number].forms if each.way == way]
    return [leaf.kind for form in forms for leaf in form.leaves]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mixtral"])
def test_an_ordinary_model_is_mergeable_in_every_way(
    architecture: str, request: pytest.FixtureRequest
) -> None:
    place: Site = request.getfixturevalue(architecture)
    layout, why_not = learn(place.model, tiny.TOLERANCE)
    assert layout is not None
    assert why_not == ""
    assert layout.ways == {PASS, GENERATION, PADDED, PADDED_GENERATION}
    for way in layout.ways:
        assert kinds(layout, "model.lm_head.output", way) == [Kind.ROWS]
        assert set(kinds(layout, "result", way)) == {Kind.ROWS}


def test_position_embeddings_are_the_same_for_all_rows_only_where_none_is_padded(gpt2: Site) -> None:
    assert kinds(gpt2.layout, "model.transformer.wpe.output", PASS) == [Kind.WHOLE]
    assert kinds(gpt2.layout, "model.transformer.wpe.output", PADDED) == [Kind.ROWS]


def test_rotary_embeddings_likewise(llama: Site) -> None:
    assert kinds(llama.layout, "model.model.rotary_emb.output", PASS) == [Kind.WHOLE] * 2
    assert kinds(llama.layout, "model.model.rotary_emb.output", PADDED) == [Kind.ROWS] * 2


def test_a_router_has_rows_and_tokens_in_one_dimension(mixtral: Site) -> None:
    gate = "model.model.layers.0.mlp.gate.output"
    assert set(kinds(mixtral.layout, gate, PASS)) == {Kind.FLAT}
    assert set(kinds(mixtral.layout, gate, GENERATION)) == {Kind.FLAT}, (
        "with one token a row it looks like rows"
    )


def test_what_lies_in_the_order_of_experts_is_unknown(mixtral: Site) -> None:
    inner = "model.model.layers.0.mlp.experts.act_fn.output"
    assert set(kinds(mixtral.layout, inner, PASS)) == {Kind.UNKNOWN}


ROWS_THAT_HANG_TOGETHER: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean over the batch": lambda hidden: hidden + hidden.mean(0, keepdim=True),
    "normalised over the batch": lambda hidden: hidden / hidden.abs().amax(0, keepdim=True),
    "the row before": lambda hidden: hidden + hidden.roll(1, 0),
    "the number of rows": lambda hidden: hidden * len(hidden),
    "not a number in a batch": lambda hidden: hidden if len(hidden) == 1 else hidden * float("nan"),
    "infinite in a batch": lambda hidden: hidden if len(hidden) == 1 else hidden * float("inf"),
}


@pytest.mark.parametrize("change", ROWS_THAT_HANG_TOGETHER.values(), ids=ROWS_THAT_HANG_TOGETHER)
def test_a_model_whose_rows_hang_together_is_refused(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    _, why_not = learn(tiny.changed_gpt2(change), tiny.TOLERANCE)
    assert "in a batch its values differ by" in why_not


@pytest.mark.parametrize(
    ("compute", "kind"),
    [
        (lambda hidden: hidden.mean(0), Kind.UNKNOWN),
        (lambda hidden: hidden.sum((0, 1)), Kind.UNKNOWN),
        (lambda hidden: hidden[0], Kind.UNKNOWN),
        (lambda hidden: hidden[-1], Kind.UNKNOWN),
        (lambda hidden: hidden.flatten(), Kind.UNKNOWN),
        (lambda hidden: hidden @ hidden.flatten(0, 1).T, Kind.UNKNOWN),
        (lambda hidden: torch.ones(5), Kind.WHOLE),
        (lambda hidden: torch.arange(hidden.shape[1]), Kind.WHOLE),
        (lambda hidden: hidden.transpose(0, 1), Kind.ROWS),
        (lambda hidden: hidden.mean(1), Kind.ROWS),
        (lambda hidden: hidden.flatten(0, 1), Kind.FLAT),
        (lambda hidden: hidden.to_sparse(), Kind.UNKNOWN),
    ],
    ids=range(12),
)
def test_what_is_computed_beside(compute: Callable[[torch.Tensor], Any], kind: Kind) -> None:
    layout, why_not = learn(tiny.gpt2_beside(compute), tiny.TOLERANCE)
    assert layout is not None
    assert why_not == ""
    assert set(kinds(layout, tiny.ASIDE, PASS)) == {kind}


STRANGE: dict[str, Callable[[torch.Tensor], Any]] = {
    "keys that cannot be compared": lambda hidden: {hidden: 1},
    "a mapping that cannot be read": lambda _: tiny.Unreadable(),
    "the number of rows": lambda hidden: (hidden, len(hidden)),
    "what a row alone has in another form": lambda hidden: [hidden] if len(hidden) == 1 else (hidden,),
    "a text of a row alone": lambda hidden: (hidden, "one" if len(hidden) == 1 else "many"),
    "numbers that cannot be compared": lambda hidden: hidden.to(torch.float8_e4m3fn),
    "complex numbers": lambda hidden: torch.complex(hidden, hidden),
}


@pytest.mark.parametrize("compute", STRANGE.values(), ids=STRANGE)
def test_one_strange_value_is_not_served_and_all_others_are(compute: Callable[[torch.Tensor], Any]) -> None:
    with site(lambda: tiny.gpt2_beside(compute)) as place:
        layout, why_not = learn(place.model, tiny.TOLERANCE)
        assert layout is not None
        assert why_not == ""
        assert layout.ways == {PASS, GENERATION, PADDED, PADDED_GENERATION}
        assert kinds(layout, "model.transformer.h.0.mlp.output", PASS) == [Kind.ROWS]
        all_fit(place, [looks_aside, reads(11), reads(21)], shared=0)
        assert [each.shared for each in place.merged(reads(11), reads(21))] == [1, 1]


def looks_aside(model: Any, backend: Backend) -> None:
    with model.trace(tiny.prompt(3), backend=backend):
        aside = model.transformer.h[0].mlp.aside.output
        shown = str(getattr(aside, "data", aside)).save()  # noqa: F841 - what a block saves is sent back by its name
        logits = model.lm_head.output.save()  # noqa: F841


def test_a_module_that_is_visited_as_often_as_there_are_rows_is_not_served() -> None:
    model = tiny.gpt2_beside(lambda _: None)
    model._module.transformer.h[0].mlp.aside.compute = tiny.ByRows()
    model = tiny.wrapped(model._module)
    layout, why_not = learn(model, tiny.TOLERANCE)
    assert layout is not None
    assert why_not == ""
    inner = tiny.ASIDE.replace("aside.output", "aside.compute.inner.output")
    number = layout.number(inner)
    assert number is not None
    assert not layout.locations[number].serves(PASS)
    assert kinds(layout, tiny.ASIDE, PASS) == [Kind.ROWS]


def test_tokens_before_rows_is_no_flat_dimension() -> None:
    """Its size is that of rows times tokens, but its order is not row by row: what a row would get is not its own."""
    _, why_not = learn(tiny.gpt2_beside(lambda hidden: hidden.transpose(0, 1).flatten(0, 1)), tiny.TOLERANCE)
    assert "in a batch its values differ by" in why_not


def test_no_tolerance_at_all_refuses_a_model_whose_bits_differ(gpt2: Site) -> None:
    layout, why_not = learn(tiny.changed_gpt2(lambda hidden: hidden + len(hidden) * 1e-6), 0.0)
    assert layout is not None
    assert layout.difference > 0
    assert "and 0 are allowed" in why_not


def test_a_model_that_needs_more_than_ids_is_refused() -> None:
    def fails(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("You have to specify decoder_input_ids")

    layout, why_not = learn(tiny.gpt2_beside(fails), tiny.TOLERANCE)
    assert layout is None
    assert (
        why_not == "it cannot be run on token ids alone (ValueError: You have to specify decoder_input_ids)"
    )


def test_learning_leaves_nothing_on_the_model(gpt2: Site) -> None:
    assert learn(gpt2.model, tiny.TOLERANCE)[1] == ""
    interleaver = gpt2.model.interleaver
    assert "handle" not in vars(interleaver)
    assert not interleaver.interleaving
    assert gpt2.untouched.changed() == ""


def test_where_all_sizes_coincide_each_gets_its_own_rows() -> None:
    """Sixteen rows of sixteen tokens of sixteen numbers."""
    value = torch.arange(16.0**3).view(16, 16, 16)
    leaf = LeafLayout(Kind.ROWS, 0, tracked=False)
    assert torch.equal(leaf.rows(value, 3, 2, 16), value[3:5])
    assert torch.equal(LeafLayout(Kind.ROWS, 1, tracked=False).rows(value, 3, 2, 16), value[:, 3:5])
    flat = LeafLayout(Kind.FLAT, 0, tracked=False)
    assert torch.equal(flat.rows(value.flatten(0, 1), 3, 2, 16), value[3:5].flatten(0, 1))
    assert torch.equal(flat.rows(value[:, 0], 3, 2, 16), value[3:5, 0]), "one token a row"
    assert leaf.rows(value, 3, 2, 16).data_ptr() == value[3].data_ptr(), "a view"


@pytest.mark.parametrize(
    "leaf",
    [
        LeafLayout(Kind.UNKNOWN, 0, tracked=False),
        LeafLayout(Kind.ROWS, 0, tracked=False),
        LeafLayout(Kind.FLAT, 0, tracked=False),
        LeafLayout(Kind.ROWS, 2, tracked=False),
    ],
    ids=str,
)
def test_a_tensor_of_another_size_is_not_served(leaf: LeafLayout) -> None:
    with pytest.raises(Unservable):
        leaf.rows(torch.zeros(5, 4), 0, 1, 3)
    with pytest.raises(Unservable):
        LeafLayout(Kind.FLAT, 0, tracked=False).rows(torch.zeros(0, 4), 0, 1, 3)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("one", "other", "ulps"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0 + 4 * EPS], [1.0, 2.0], 2.0),
        ([NAN, 1.0], [NAN, 1.0], 0.0),
        ([-INF, 1.0], [-INF, 1.0], 0.0),
        ([-INF, 1.0 + 2 * EPS], [-INF, 1.0], 2.0),
        ([NAN, 1.0], [1.0, 1.0], INF),
        ([1.0, 1.0], [NAN, 1.0], INF),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([1e30, 1.0], [INF, 1.0], INF),
        ([], [], 0.0),
    ],
)
def test_difference(one: list[float], other: list[float], ulps: float) -> None:
    assert difference(torch.tensor(one), torch.tensor(other)) == pytest.approx(ulps)


def test_whole_numbers_are_equal_or_not() -> None:
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 3])) == INF
    assert difference(torch.tensor([True]), torch.tensor([False])) == INF
