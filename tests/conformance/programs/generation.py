"""Generation, with interventions at chosen steps."""

import nnsight
import torch

from parts import OTHER, PROMPT, SHORT, parts

STEPS = {"max_new_tokens": 5, "min_new_tokens": 5}


def generate(model, remote):
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        tokens = tracer.result.save()
    with model.generate(OTHER, **STEPS, remote=remote) as tracer:
        plain_tokens = tracer.result.save()
    return {"tokens": tokens, "plain_tokens": plain_tokens, "text": model.tokenizer.batch_decode(tokens)}


def iter_bounded(model, remote):
    layers, _, head = parts(model)
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        tops = nnsight.save([])
        for step in tracer.iter[:3]:
            layers[1].output[:, -1] += 5 * step
            tops.append(head.output[:, -1])
        tokens = tracer.result.save()
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        plain_tops = nnsight.save([])
        for step in tracer.iter[:3]:
            plain_tops.append(head.output[:, -1])
        plain_tokens = tracer.result.save()
    return {"tops": tops, "plain_tops": plain_tops, "tokens": tokens, "unedited": plain_tokens}


def iter_unbounded(model, remote):
    layers, _, head = parts(model)
    with model.generate(**STEPS, remote=remote) as tracer:
        with tracer.invoke(PROMPT):
            tops = nnsight.save([])
            for step in tracer.iter[:]:
                layers[1].output[:, -1] *= -1
                tops.append(head.output[:, -1].argmax(-1))
        with tracer.invoke():
            tokens = tracer.result.save()
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        plain_tokens = tracer.result.save()
    return {"tops": tops, "count": len(tops), "same_count": 5, "tokens": tokens, "plain_tokens": plain_tokens}


def iter_all(model, remote):
    layers, _, head = parts(model)
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        tops = nnsight.save([])
        for _ in tracer.all():
            layers[0].output[:] = 1
            tops.append(head.output[:, -1])
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        plain_tops = nnsight.save([])
        for _ in tracer.all():
            plain_tops.append(head.output[:, -1])
    return {"tops": tops, "plain_tops": plain_tops}


def iter_single_steps(model, remote):
    layers, _, head = parts(model)
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        first = nnsight.save([])
        for _ in tracer.iter[1]:
            layers[2].output[:, -1] = 0
            first.append(head.output[:, -1])
        later = nnsight.save([])
        for _ in tracer.iter[[2, 4]]:
            later.append(head.output[:, -1])
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        plain_first = nnsight.save([])
        for _ in tracer.iter[1]:
            plain_first.append(head.output[:, -1])
        plain_later = nnsight.save([])
        for _ in tracer.iter[[2, 4]]:
            plain_later.append(head.output[:, -1])
    return {"first": first, "plain_first": plain_first, "later": later, "plain_later": plain_later}


def iter_as_a_block(model, remote):
    """The older form, deprecated in 0.8 but still in many notebooks."""
    layers, _, head = parts(model)
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        tops = nnsight.save([])
        with tracer.iter[:3]:
            layers[1].output[:, -1] *= 3
            tops.append(head.output[:, -1])
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        plain_tops = nnsight.save([])
        with tracer.iter[:3]:
            plain_tops.append(head.output[:, -1])
    return {"tops": tops, "plain_tops": plain_tops}


def force_tokens(model, remote):
    _, _, head = parts(model)
    wanted = [9, 12, 3]
    with model.generate(PROMPT, max_new_tokens=3, remote=remote) as tracer:
        for step in tracer.iter[:3]:
            head.output[:, -1, wanted[step]] = 1000
        tokens = tracer.result.save()
    with model.generate(PROMPT, max_new_tokens=3, remote=remote) as tracer:
        plain_tokens = tracer.result.save()
    return {
        "tokens": tokens,
        "plain_tokens": plain_tokens,
        "ends": tokens[0, -3:].tolist(),
        "same_ends": wanted,
    }


def streamed_tokens(model, remote):
    layers, _, _ = parts(model)
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        tokens = nnsight.save([])
        for _ in tracer.iter[:4]:
            tokens.append(model.generator.streamer.output)  # the prompt first, then each new token
            layers[1].output[:] = -1
    with model.generate(PROMPT, **STEPS, remote=remote) as tracer:
        plain_tokens = nnsight.save([])
        for _ in tracer.iter[:4]:
            plain_tokens.append(model.generator.streamer.output)
    return {"tokens": tokens, "plain_tokens": plain_tokens}


def seeded_sampling(model, remote):
    with model.generate(PROMPT, **STEPS, do_sample=True, temperature=2.0, remote=remote) as tracer:
        torch.manual_seed(5)
        tokens = tracer.result.save()
    with model.generate(PROMPT, **STEPS, do_sample=True, temperature=2.0, remote=remote) as tracer:
        torch.manual_seed(6)
        plain_tokens = tracer.result.save()
    return {"tokens": tokens, "plain_tokens": plain_tokens}


def generate_padded_batch(model, remote):
    layers, _, head = parts(model)
    with model.generate(**STEPS, remote=remote) as tracer:
        with tracer.invoke(SHORT):
            for _ in tracer.iter[:5]:
                layers[1].output[:, -1] = 2
        with tracer.invoke(PROMPT):
            second = nnsight.save([])
            for _ in tracer.iter[:5]:
                second.append(head.output[:, -1])
        with tracer.invoke():
            tokens = tracer.result.save()
    with model.generate([SHORT, PROMPT], **STEPS, remote=remote) as tracer:
        plain_tokens = tracer.result.save()
    return {"tokens": tokens, "plain_tokens": plain_tokens, "second": second}


def whole_pipeline(model, remote):
    _, _, head = parts(model)
    with model.pipe(PROMPT, max_new_tokens=3, do_sample=False, remote=remote) as tracer:
        for _ in tracer.iter[:3]:
            head.output[:, -1, 6] = 1000
        answer = tracer.result.save()
    with model.pipe(PROMPT, max_new_tokens=3, do_sample=False, remote=remote) as tracer:
        plain_answer = tracer.result.save()
    return {"answer": answer, "plain_answer": plain_answer}
