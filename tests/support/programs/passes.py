"""The kinds of programs that can share a forward pass: traces, invokes, sessions, generations, stored edits."""

from tests.support.programs.body import Body
from tests.support.programs.draft import Draft, fill
from tests.support.programs.places import HIDDEN, backbone
from tests.support.programs.reads import last, sweep


def _ending(draft: Draft, body: Body) -> list[str]:
    """What some programs do in the midst of the pass: stop it, or fail."""
    fate = draft.chance.random()
    if fate > 0.2:
        return []
    order = body.order("block", "mlp", "attention")
    body.cut(order)
    body.at(order, f"{body.seen}.append({body.tensor(order)}[:, -1].sum(-1))")
    if fate < 0.1:
        draft.elements.add("stop")
        return ["tracer.stop()"]
    draft.elements.add("raises")
    draft.raises = f"drawn {draft.name}"
    return [f"if {body.seen}:", f"    raise ValueError({draft.raises!r})"]


def traced(draft: Draft) -> None:
    """One forward pass with one input."""
    length = draft.length()
    batch = draft.batch(length, ragged=draft.chance.random() < 0.08)
    body = draft.body(min(len(row) for row in batch))
    draft.write(0, f"with model.trace({draft.given(batch)}, backend=backend) as tracer:")
    draft.write(1, f"{body.seen} = nnsight.save([])")
    if draft.chance.random() < 0.15:
        draft.write(1, _cache(draft))
    ending: list[str] = []
    if draft.chance.random() < 0.12:
        fill(body, reads=1)
        sweep(body)
    else:
        fill(body, reads=5)
        ending = _ending(draft, body)
    draft.write(1, *body.text(), *ending)
    if not ending and draft.chance.random() < 0.25:
        draft.elements.add("result")
        draft.write(1, "result = tracer.result.logits[:, -1].save()")


def _cache(draft: Draft) -> str:
    draft.elements.add("cache")
    inputs = draft.chance.random() < 0.4
    if inputs:
        draft.elements.add("cache-of-inputs")
    if draft.chance.random() < 0.3:
        draft.elements.add("cache-of-everything")
        return f"cached = tracer.cache(include_inputs={inputs})"
    path = backbone(draft.family)[0]
    layer = draft.chance.randrange(3)
    modules = f"[model.{path}[{layer}], model.{path}[{layer}].mlp, model.lm_head]"
    return f"cached = tracer.cache(modules={modules}, include_inputs={inputs})"


def invoked(draft: Draft) -> None:
    """Several inputs in one pass; sometimes a value goes from one to the next, sometimes all are read at once."""
    length, count = draft.length(), draft.chance.choice([2, 2, 3])
    with_barrier = draft.chance.random() < 0.4
    draft.write(0, "with model.trace(backend=backend) as tracer:")
    if with_barrier:
        draft.elements.add("barrier")
        draft.write(1, "meeting = tracer.barrier(2)")
    path = backbone(draft.family)[0]
    position = draft.chance.choice(["-1", ":2", "0"])
    rows = draft.chance.choice([1, 1, 2])
    for number in range(count):
        body = draft.body(length)
        if with_barrier and number < 2:
            order = body.number_of(f"{path}[1]", "output")
            taken = ["taken = " + f"model.{path}[1].output[:, {position}]", "meeting()"]
            written = ["meeting()", f"model.{path}[1].output[:, {position}] = taken"]
            last(body)
            body.at(order, *(taken if number == 0 else written))
        else:
            fill(body, edits=2, reads=2)
        draft.write(1, f"with tracer.invoke({draft.given(draft.batch(length, rows))}):")
        draft.write(2, f"{body.seen} = nnsight.save([])", *body.text())
    if draft.chance.random() < 0.4:
        draft.elements.add("empty-invoke")
        body = draft.body(length)
        fill(body, edits=2, reads=2)
        draft.write(1, "with tracer.invoke():")
        draft.write(2, f"{body.seen} = nnsight.save([])", *body.text())


def session(draft: Draft) -> None:
    """Two or three traces in one request; a value of each goes into the next."""
    rows = draft.chance.choice([1, 1, 2])
    draft.write(0, "with model.session(backend=backend):")
    path = backbone(draft.family)[0]
    flow = ""
    for number in range(draft.chance.choice([2, 3])):
        length = draft.length()
        body = draft.body(length)
        fill(body, edits=2, reads=2)
        order = body.number_of(f"{path}[{draft.chance.randrange(3)}]", "output")
        if flow:
            body.at(order, f"{body.tensor(order)}[:, -1] += 0.5 * {flow}")
        flow = f"flow{number}"
        body.at(order, f"{flow} = {body.tensor(order)}[:, -1].clone()")
        draft.write(1, f"{body.seen} = nnsight.save([])")
        draft.write(1, f"with model.trace({draft.given(draft.batch(length, rows))}) as tracer:")
        draft.write(2, *body.text())
    draft.write(1, f"total = {flow}.sum().item()", f"{body.seen}.append(total)")


def generated(draft: Draft) -> None:
    """A few new tokens, greedily; all or some of the steps are read and edited."""
    draft.steps = draft.chance.choice([2, 3, 3, 4])
    early = draft.chance.random() < 0.3
    options = f"max_new_tokens={draft.steps}"
    if early:
        draft.elements.add("early-end")
        ends = sorted(draft.chance.sample(range(2, 32), 8))
        options += f", eos_token_id={ends}, pad_token_id=1"
    else:
        options += f", min_new_tokens={draft.steps}"
    batch = draft.batch(draft.length(), draft.chance.choice([1, 2, 3, 3, 4, 4]))
    head = f"{draft.given(batch)}, {options}"
    body = draft.body(1, repeated=True)
    fill(body, edits=2, reads=2)
    steps = ["tracer.iter[:]", "tracer.all()"]
    if early or draft.chance.random() < 0.5:
        draft.elements.add("all-steps")
        whole = early or draft.chance.random() < 0.5
        _unbounded(draft, body, head, options, draft.chance.choice(steps), whole=whole)
        return
    draft.elements.add("some-steps")
    some = draft.chance.choice([":2", "0", "1", f"1:{draft.steps}", "[0, 1]", f":{draft.steps}"])
    draft.write(0, f"with model.generate({head}, backend=backend) as tracer:")
    draft.write(1, f"{body.seen} = nnsight.save([])")
    if draft.chance.random() < 0.15:
        draft.write(1, _cache(draft))
    draft.write(1, f"for step in tracer.iter[{some}]:")
    draft.write(2, f"{body.seen}.append(step)", *body.text())
    draft.elements.add("result")
    draft.write(1, "tokens = tracer.result.save()")


def _unbounded(draft: Draft, body: Body, head: str, options: str, steps: str, *, whole: bool) -> None:
    """Steps until there are no more; what follows such a loop never runs, so the tokens need an invoke of their own."""
    lines = [f"{body.seen} = nnsight.save([])", f"for step in {steps}:"]
    inside = [f"{body.seen}.append(1)", *body.text()]
    if not whole:
        draft.write(0, f"with model.generate({head}, backend=backend) as tracer:")
        draft.write(1, *lines)
        draft.write(2, *inside)
        return
    draft.elements.update(("empty-invoke", "result"))
    prompt = head.removesuffix(f", {options}")
    draft.write(0, f"with model.generate({options}, backend=backend) as tracer:")
    draft.write(1, f"with tracer.invoke({prompt}):")
    draft.write(2, *lines)
    draft.write(3, *inside)
    draft.write(1, "with tracer.invoke():")
    draft.write(2, "tokens = tracer.result.save()")


def edited(draft: Draft) -> None:
    """An edit that is stored, on a copy of the model or on the model itself, and replayed in a trace."""
    length = draft.length()
    within = draft.chance.random() < 0.5
    name = "model" if within else "edited"
    stored, body = draft.body(length, name), draft.body(length, name)
    make, vector = stored.vector(HIDDEN)
    order = stored.order("block", "mlp", width=HIDDEN)
    stored.first(make)
    stored.at(order, f"{stored.tensor(order)}[:, {stored.position()}] += {vector}")
    fill(body, edits=2, reads=2)
    if within:
        draft.elements.add("inplace-edit")
    draft.write(0, "with model.edit(inplace=True):" if within else "with model.edit() as (_, edited):")
    draft.write(1, *stored.text())
    draft.write(0, f"with {name}.trace({draft.given(draft.batch(length))}, backend=backend) as tracer:")
    draft.write(1, f"{body.seen} = nnsight.save([])", *body.text())
    if within:
        draft.write(0, "model.clear_edits()")


def sampled(draft: Draft) -> None:
    """Tokens drawn by chance, from a seed of the program's own."""
    draft.steps = draft.chance.choice([2, 3])
    options = f"max_new_tokens={draft.steps}, min_new_tokens={draft.steps}, do_sample=True, temperature=2.0"
    body = draft.body(1, repeated=True)
    fill(body, edits=2, reads=2)
    draft.write(
        0, f"with model.generate({draft.given(draft.batch(8))}, {options}, backend=backend) as tracer:"
    )
    draft.write(1, f"torch.manual_seed({draft.chance.randrange(1000)})", f"{body.seen} = nnsight.save([])")
    draft.write(1, f"for step in tracer.iter[:{draft.steps}]:")
    draft.write(2, *body.text())
    draft.write(1, "tokens = tracer.result.save()")
