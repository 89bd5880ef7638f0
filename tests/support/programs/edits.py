"""Statements that change what the model computes."""

from collections.abc import Callable

from tests.support.programs.body import Body
from tests.support.programs.places import HEADS, HIDDEN, LAYERS, attention, backbone


def in_place(body: Body) -> None:
    """A part of a value is written over."""
    order = body.order()
    tensor, width = body.tensor(order), body.places[order].width
    body.note("in-place", f"in-place-{body.places[order].slot}")
    if body.places[order].within == "[0]":
        body.note("within-tuple")
    body.at(order, body.chance.choice(_in_place(body, tensor, width)))


def _in_place(body: Body, tensor: str, width: int) -> list[str]:
    position, channels, constant = body.position(), body.channels(width), body.constant()
    return [
        f"{tensor}[:, {position}] = {constant}",
        f"{tensor}[:, {position}] *= {constant}",
        f"{tensor}[..., {channels}] = {constant}",
        f"{tensor}[..., {channels}] += {constant}",
        f"{tensor}[:, -1, {channels}] -= 1.5",
        f"{tensor}[:] = {constant}",
        f"{tensor}[0] = {constant}",
        f"{tensor}[-1, -1] += 3.0",
        f"{tensor}.mul_({constant})",
        f"{tensor}.clamp_(min=-0.5)",
        f"{tensor}[{tensor} > 0.5] = {constant}",
        f"{tensor}[:] = {tensor}.flip(-1)",
        f"{tensor}[:, {position}] = -{tensor}[:, {position}]",
    ]


def replaced(body: Body) -> None:
    """Another value in its place; in a tuple, another tuple."""
    order = body.order(*("block", "attention", "mlp", "norm", "embedding", "inner", "head"))
    place = body.places[order]
    value, tensor = place.value(body.model), body.tensor(order)
    body.note("replaced", f"replaced-{place.slot}")
    new = body.chance.choice(
        [
            f"{tensor} * {body.constant()}",
            f"{tensor}.flip(-1)",
            f"torch.zeros_like({tensor})",
            f"torch.where({tensor} > 0, {tensor}, 0.5 * {tensor})",
            f"{tensor} - {tensor}.mean(-1, keepdim=True)",
            f"{tensor}.clone()",
            f"{tensor}.detach() + 0.25",
        ]
    )
    if place.within:
        body.note("within-tuple")
        new = f"({new}, *{value}[1:])"
    body.at(order, f"{value} = {new}")


def augmented(body: Body) -> None:
    """In place and replaced at once, as ``+=`` is."""
    order = body.order(*("block", "mlp", "norm", "embedding", "inner", "head"))
    body.note("augmented")
    body.at(order, f"{body.tensor(order)} {body.chance.choice(['+=', '*=', '-='])} {body.constant()}")


def replaced_inputs(body: Body) -> None:
    """All that a block is called with."""
    layer = body.chance.randrange(LAYERS[body.family])
    path = f"{backbone(body.family)[0]}[{layer}]"
    body.note("replaced-inputs")
    args, kwargs = body.name(), body.name()
    body.at(
        body.number_of(path, "input"),
        f"{args}, {kwargs} = {body.model}.{path}.inputs",
        f"{body.model}.{path}.inputs = (({args}[0] * 0.5, *{args}[1:]), {kwargs})",
    )


def steered(body: Body) -> None:
    order = body.order("block", "mlp", "embedding")
    make, name = body.vector(body.places[order].width, scale=2.0)
    tensor, value = body.tensor(order), body.places[order].value(body.model)
    body.first(make)
    body.at(
        order,
        body.chance.choice(
            [
                f"{tensor}[:, {body.position()}] += {name}",
                f"{value} = {tensor} + {name}.to({tensor}.dtype)",
                f"{tensor}.add_({name}, alpha=1.5)",
            ]
        ),
    )


def patched(body: Body) -> None:
    """What one layer computes, written at a later one."""
    source = body.order(width=HIDDEN, before=body.number_of("lm_head", "output") - 4)
    target = body.order("block", "attention", "mlp", "norm", width=HIDDEN, after=source)
    position, name = body.position(), body.name()
    copied = body.chance.choice([".clone()", ".detach().clone()", " * 0.5", ""])
    body.note("patch" if copied else "patch-of-a-view")
    body.at(source, f"{name} = {body.tensor(source)}[:, {position}]{copied}")
    body.at(target, f"{body.tensor(target)}[:, {position}] = {name}")


def head_off(body: Body) -> None:
    """One attention head writes nothing."""
    layer = body.chance.randrange(LAYERS[body.family])
    block = f"{backbone(body.family)[0]}[{layer}]"
    within = ".".join(attention(body.family))
    size = HIDDEN // HEADS
    start = body.chance.randrange(HEADS) * size
    path = f"{block}.{within}"
    body.note("head-off")
    body.at(body.number_of(path, "input"), f"{body.model}.{path}.input[:, :, {start} : {start + size}] = 0.0")


def mlp_off(body: Body) -> None:
    layer = body.chance.randrange(LAYERS[body.family])
    path = f"{backbone(body.family)[0]}[{layer}].mlp"
    mlp = f"{body.model}.{path}"
    body.note("mlp-off")
    body.at(
        body.number_of(path, "output"),
        body.chance.choice([f"{mlp}.output[:] = 0.0", f"{mlp}.output = torch.zeros_like({mlp}.output)"]),
    )


def branch(body: Body) -> None:
    """What is done depends on the values, and with it which place is waited for."""
    order = body.order("block", "mlp", before=body.number_of("lm_head", "input") - 8)
    later = body.order("block", "attention", "mlp", after=order)
    name = body.name()
    body.note("branch")
    body.at(
        order,
        f"{name} = float({body.tensor(order)}.detach().float().norm())",
        f"{body.seen}.append({name})",
    )
    body.at(
        later,
        f"if {name} > {body.chance.choice([0.1, 0.3, 1.0, 4.0])}:",
        f"    {body.tensor(later)}[:, -1] = {body.constant()}",
    )
    if body.chance.random() < 0.5:
        body.at(later, "else:", f"    {body.seen}.append({body.tensor(later)}[:, 0].clone())")


def caught(body: Body) -> None:
    """An error of the block's own, which it expects."""
    order = body.order("block", "mlp")
    name = body.name()
    body.note("caught")
    body.at(
        order,
        f"{name} = {body.tensor(order)}",  # no block may begin with a try
        "try:",
        f"    {name}[:, 10_000] = 0",
        "except IndexError as error:",
        f"    {body.seen}.append(str(error))",
    )


def tokens_edited(body: Body) -> None:
    order = body.order("tokens")
    body.note("tokens-edited")
    body.at(order, f"{body.tensor(order)}[:, -1] = {body.chance.randrange(2, 32)}")


def unbatched_edited(body: Body) -> None:
    """An edit of what the rows have in common; it must not reach anyone else's."""
    order = body.order("unbatched")
    body.note("unbatched-edited")
    body.at(order, f"{body.tensor(order)}[:] *= 0.5")


def late(body: Body) -> None:
    """A value that was read is edited when the model has gone on; where it is still in use, that counts."""
    layer = body.chance.randrange(LAYERS[body.family])
    block = f"{backbone(body.family)[0]}[{layer}]"
    name, inside = body.name(), f"{block}.{attention(body.family)[0]}"
    body.note("late-edit")
    order = body.number_of(inside, "output")
    body.at(body.number_of(block, "input"), f"{name} = {body.model}.{block}.input")
    body.at(
        order,
        f"{body.seen}.append({body.model}.{inside}.output[0].sum(-1))",
        f"{name}[:, {body.position()}] = 0.5",
    )


def unseen(body: Body) -> None:
    """An edit in place that moves no version counter."""
    order = body.order("block", "mlp", "norm", "inner")
    tensor = body.tensor(order)
    body.note("unseen-edit")
    body.at(
        order,
        body.chance.choice(
            [
                f"{tensor}.data.mul_(0.5)",
                f"{tensor}.data[:, -1] = 1.0",
                f"{tensor}.detach().float().numpy()[:, -1] = 0.75",
            ]
        ),
    )


def aliased(body: Body) -> None:
    """A saved value is edited through another name of the same memory: the next block's input is this one's output."""
    layer = body.chance.randrange(LAYERS[body.family] - 1)
    path = backbone(body.family)[0]
    body.note("aliased")
    body.at(
        body.number_of(f"{path}[{layer}]", "output"),
        body.save(f"{body.model}.{path}[{layer}].output"),
    )
    body.at(
        body.number_of(f"{path}[{layer + 1}]", "input"),
        f"{body.model}.{path}[{layer + 1}].input[:, -1] = {body.constant()}",
    )


def shared_chance(body: Body) -> None:
    """Numbers of torch's own generator, seeded by the program, drawn after others may have run."""
    order = body.order("block", "mlp", width=HIDDEN)
    body.note("global-seed")
    body.first(f"torch.manual_seed({body.chance.randrange(1000)})")
    body.at(order, f"{body.tensor(order)}[:, -1] += torch.randn({HIDDEN})")


EDITS: dict[Callable[[Body], None], int] = {
    in_place: 14,
    replaced: 8,
    augmented: 2,
    replaced_inputs: 1,
    steered: 4,
    patched: 5,
    head_off: 2,
    mlp_off: 2,
    branch: 3,
    caught: 1,
    tokens_edited: 1,
    unbatched_edited: 1,
    late: 1,
    unseen: 1,
    aliased: 1,
    shared_chance: 1,
}
