"""Statements that read: each saves something, and what it saves would be another value in a wrong row."""

from collections.abc import Callable

from tests.support.programs.body import Body
from tests.support.programs.places import LAYERS, backbone


def kept(body: Body) -> None:
    """A whole value, under a name of its own where it can be, as most scripts do."""
    order = body.order()
    body.note("kept")
    body.at(order, body.save(body.tensor(order)))


def appended(body: Body) -> None:
    """A part of a value, in a list."""
    order = body.order()
    tensor = body.tensor(order)
    part = body.chance.choice(
        [
            f"{tensor}[:, {body.position()}].clone()",
            f"{tensor}.mean(-1)",
            f"{tensor}[..., :5].detach().clone()",
            f"{tensor}.norm().item()",
            f"{tensor}.argmax(-1).tolist()",
            f"({tensor} > 0).sum(-1)",
            f"{tensor}[0, -1].double().sum()",
            f"{tensor}[-1].amax(-1)",
            f"{tensor}.detach().to(torch.bfloat16)[:, -1]",
        ]
    )
    body.note("appended")
    body.at(order, f"{body.seen}.append({part})")


def facts(body: Body) -> None:
    """Shape, dtype, and whether gradients would flow."""
    order = body.order()
    body.note("facts")
    name = body.name()
    body.at(
        order,
        f"{name} = {body.tensor(order)}",
        f"{body.seen}.append([list({name}.shape), str({name}.dtype), {name}.requires_grad, len({name})])",
    )


def inputs(body: Body) -> None:
    """All that a module is called with, by the shapes of its tensors."""
    order = body.order("block", "attention")
    module = body.places[order].module(body.model)
    body.note("inputs")
    order = body.number_of(body.places[order].path, "input")
    args, kwargs = body.name(), body.name()
    body.at(
        order,
        f"{args}, {kwargs} = {module}.inputs",
        f"{body.seen}.append([len({args}), sorted({kwargs})])",
        f"for value in (*{args}, *{kwargs}.values()):",
        f"    {body.seen}.append(list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__)",
    )


def logit_lens(body: Body) -> None:
    order = body.order("block", "mlp", "attention")
    lens = f"{body.lens(body.tensor(order))}[:, -1]"
    body.at(order, f"{body.seen}.append({body.chance.choice([lens, f'{lens}.argmax(-1)'])})")


def other_module(body: Body) -> None:
    """A module called out of its turn, on another one's output."""
    order = body.order("block")
    path = f"{backbone(body.family)[0]}[{body.chance.randrange(LAYERS[body.family])}].mlp"
    body.note("called-module")
    body.at(order, f"{body.seen}.append({body.model}.{path}({body.tensor(order)}).sum(-1))")


def sweep(body: Body) -> None:
    """The residual stream of all blocks, in a loop; nothing else may name what lies between or after."""
    path = backbone(body.family)[0]
    order = body.number_of(f"{path}[0]", "output")
    part = body.chance.choice([".output[:, -1].clone()", ".output.norm(dim=-1)", ".output[:, 0].clone()"])
    body.note("loop")
    body.cut(order - 1)
    body.at(order, f"for layer in {body.model}.{path}:", f"    {body.seen}.append(layer{part})")
    last(body)


def arrays(body: Body) -> None:
    """Values as numpy sees them."""
    order = body.order()
    array = f"{body.tensor(order)}.detach().float().numpy()"
    name = body.name()
    body.note("numpy")
    body.at(
        order,
        f"{name} = {array}.copy()",
        f"{body.seen}.append({name}[:, -1, :3])",
        f"{body.seen}.append([float(np.abs({name}).max()), list({name}.shape)])",
    )


def unbatched(body: Body) -> None:
    """What all rows have in common: positions."""
    order = body.order("unbatched")
    body.note("unbatched-read")
    body.at(order, body.save(body.tensor(order)), f"{body.seen}.append(list({body.tensor(order)}.shape))")


def tokens(body: Body) -> None:
    order = body.order("tokens")
    body.note("tokens-read")
    body.at(order, f"{body.seen}.append({body.tensor(order)}.tolist())")


def keys(body: Body) -> None:
    """The keys and values of attention, which are in no tensor of an output but in an object."""
    layer = body.chance.randrange(LAYERS[body.family])
    body.note("kv-cache")
    body.at(
        body.number_of("", "output"),
        body.save(f"{body.model}.output.past_key_values.layers[{layer}].keys"),
        f"{body.seen}.append(list({body.model}.output.past_key_values.layers[{layer}].values.shape))",
    )


READS: dict[Callable[[Body], None], int] = {
    kept: 6,
    appended: 10,
    facts: 3,
    inputs: 2,
    logit_lens: 3,
    other_module: 1,
    arrays: 2,
    unbatched: 1,
    tokens: 1,
}


def last(body: Body) -> None:
    """One of the values in which every edit shows."""
    order = body.number_of("lm_head", "output")
    match body.chance.choice(["head", "root", "logits"]):
        case "head":
            body.at(order, body.save(f"{body.model}.lm_head.output"))
        case "root":
            body.note("root")
            body.at(body.number_of("", "output"), body.save(f"{body.model}.output.logits"))
        case _:
            name = body.name()
            body.at(
                order,
                f"{name} = {body.model}.lm_head.output",
                f"{body.seen}.append([list({name}.shape), {name}[:, -1].argmax(-1).tolist()])",
                f"{body.seen}.append({name}.logsumexp(-1))",
            )
