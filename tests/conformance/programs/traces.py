"""Traces of one forward pass: reading, editing, several inputs, sessions, stored edits."""

import nnsight
import torch

from parts import OTHER, PROMPT, SHORT, attention_of, parts

# Programs that only read have no baseline to differ from.
READS = {"save", "save_containers", "save_model_output", "token_inputs", "logit_lens"}


def save(model, remote):
    layers, norm, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        embedded = layers[0].input.save()
        hidden = layers[1].output.save()
        inside = attention_of(layers[2]).output[0].save()
        normed = norm.output.save()
        logits = head.output.save()
    return {"embedded": embedded, "hidden": hidden, "inside": inside, "normed": normed, "logits": logits}


def save_containers(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        # Lists, dictionaries and plain values travel as well as tensors do.
        states = nnsight.save([])
        for layer in layers:
            states.append(layer.output[:, -1])

        best = head.output[0, -1].argmax().item()
        summary = nnsight.save(
            {
                "best": best,
                "word": model.tokenizer.decode(best),
                "shape": tuple(head.output.shape),
                "half": head.output.to(torch.bfloat16),
                "sign": head.output > 0,
                "count": (head.output > 0).sum(-1),
                "nothing": None,
            }
        )
        mean = head.output.mean().item()
        kept_number = nnsight.save(mean)
    return {"states": states, "summary": summary, "number": kept_number}


def save_model_output(model, remote):
    with model.trace(PROMPT, remote=remote):
        output = model.output.save()
    return {
        "logits": output.logits,
        "keys": output.past_key_values.layers[0].keys,
        "kind": type(output).__name__,
    }


def token_inputs(model, remote):
    _, _, head = parts(model)
    ids = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with model.trace(ids, remote=remote):
        from_tensor = head.output.save()
    with model.trace(input_ids=ids, remote=remote):
        from_keyword = head.output.save()
    with model.trace(ids[0].tolist(), remote=remote):
        from_list = head.output.save()
    with model.trace(PROMPT, remote=remote):
        same_from_tensor = head.output.save()
    return {
        "from_tensor": from_tensor,
        "same_from_tensor": same_from_tensor,
        "from_keyword": from_keyword,
        "same_from_keyword": same_from_tensor,
        "from_list": from_list,
        "same_from_list": same_from_tensor,
    }


def logit_lens(model, remote):
    layers, norm, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        lenses = nnsight.save([])
        for layer in layers[:-1]:
            lenses.append(head(norm(layer.output))[:, -1])
        logits = head.output.save()
    return {"lenses": lenses, "logits": logits}


def edit_in_place(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        layers[1].output[:, -1] = 0
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}


def edit_by_replacement(model, remote):
    layers, _, head = parts(model)
    direction = torch.linspace(-2, 2, 32)
    with model.trace(PROMPT, remote=remote):
        layers[1].output = layers[1].output + 3 * direction
        steered = layers[1].output.save()
        attention_of(layers[2]).output = (attention_of(layers[2]).output[0] * 0, None)
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_steered = layers[1].output.save()
        plain_logits = head.output.save()
    return {
        "steered": steered,
        "plain_steered": plain_steered,
        "logits": logits,
        "plain_logits": plain_logits,
    }


def edit_an_input(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        layers[2].input = layers[2].input.flip(-1)
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}


def edit_with_seeded_noise(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        torch.manual_seed(11)
        noise = torch.randn(32)
        layers[0].output += noise
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}


def several_invokes(model, remote):
    layers, _, head = parts(model)
    with model.trace(remote=remote) as tracer:
        with tracer.invoke(PROMPT):
            layers[1].output[:] = 0
            edited = head.output.save()
        with tracer.invoke(OTHER):
            beside = head.output.save()
    with model.trace(remote=remote) as tracer:
        with tracer.invoke(PROMPT):
            plain_edited = head.output.save()
        with tracer.invoke(OTHER):
            same_beside = head.output.save()
    return {"edited": edited, "plain_edited": plain_edited, "beside": beside, "same_beside": same_beside}


def empty_invoke(model, remote):
    layers, _, head = parts(model)
    with model.trace(remote=remote) as tracer:
        with tracer.invoke(PROMPT):
            first = head.output.save()
        with tracer.invoke(OTHER):
            second = head.output.save()
        with tracer.invoke():
            layers[0].output = layers[0].output * 2
            whole = head.output.save()
    with model.trace([PROMPT, OTHER], remote=remote):
        plain_whole = head.output.save()
    return {
        "first": first,
        "same_first": whole[:1],
        "second": second,
        "same_second": whole[1:],
        "whole": whole,
        "plain_whole": plain_whole,
    }


def barrier(model, remote):
    layers, _, head = parts(model)
    with model.trace(remote=remote) as tracer:
        meeting = tracer.barrier(2)

        with tracer.invoke(PROMPT):
            clean = layers[1].output[:, -1]
            meeting()
        with tracer.invoke(OTHER):
            meeting()
            layers[1].output[:, -1] = clean
            patched = head.output.save()
    with model.trace(remote=remote) as tracer:
        with tracer.invoke(PROMPT):
            pass
        with tracer.invoke(OTHER):
            plain_patched = head.output.save()
    return {"patched": patched, "plain_patched": plain_patched}


def session(model, remote):
    layers, _, head = parts(model)
    with model.session(remote=remote):
        with model.trace(PROMPT):
            taken = layers[1].output[:, -1]  # not saved: it only has to reach the next trace

        with model.trace(OTHER):
            layers[1].output[:, -1] = taken
            patched = head.output.save()

        with model.trace(OTHER):
            plain_patched = head.output.save()
    return {"patched": patched, "plain_patched": plain_patched}


def session_with_loop(model, remote):
    layers, _, head = parts(model)
    words = [PROMPT, OTHER, SHORT]
    with model.session(remote=remote):
        total = 0
        lasts = nnsight.save([])
        for number, words_of_one in enumerate(words):
            if number == 1:
                continue
            with model.trace(words_of_one):
                state = layers[1].output[:, -1]
                lasts.append(head.output[:, -1])
            total = total + state

        with model.trace(OTHER):
            layers[1].output[:, -1] = total
            steered = head.output.save()
        with model.trace(OTHER):
            plain_steered = head.output.save()
    return {"lasts": lasts, "steered": steered, "plain_steered": plain_steered}


def skip(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        layers[1].skip(layers[1].input)
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}


def stop(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote) as tracer:
        reached = nnsight.save(["before"])
        hidden = layers[0].output.save()
        tracer.stop()
        reached.append(head.output)
    with model.trace(PROMPT, remote=remote) as tracer:
        plain_reached = nnsight.save(["before"])
        same_hidden = layers[0].output.save()
        plain_reached.append(head.output)
    return {"reached": reached, "plain_reached": plain_reached, "hidden": hidden, "same_hidden": same_hidden}


def _tensors(value):
    """Every tensor in a nested output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for item in value for tensor in _tensors(item)]


def cache(model, remote):
    layers, _, head = parts(model)
    chosen = [layers[0], layers[2], head]
    with model.trace(PROMPT, remote=remote) as tracer:
        seen = tracer.cache(modules=chosen, include_inputs=True)
        layers[2].output = layers[2].output * 2
    with model.trace(PROMPT, remote=remote) as tracer:
        plain_seen = tracer.cache(modules=chosen, include_inputs=True)
    return {
        "paths": sorted(seen.keys()),
        "before": seen[layers[0].path].output,
        "same_before": plain_seen[layers[0].path].output,
        "edited": seen[layers[2].path].output,
        "plain_edited": plain_seen[layers[2].path].output,
        "logits": seen[head.path].output,
        "plain_logits": plain_seen[head.path].output,
        "input": seen[head.path].input,
        "plain_input": plain_seen[head.path].input,
    }


def _everything(seen):
    # nnsight reaches the root module of a cache that has travelled by no path: "model" has no dot in it.
    return {path: _tensors(seen[path].output) for path in sorted(seen.keys()) if "." in path}


def cache_of_everything(model, remote):
    layers, _, _ = parts(model)
    with model.trace(PROMPT, remote=remote) as tracer:
        seen = tracer.cache()
        layers[0].output[:] = 1
    with model.trace(PROMPT, remote=remote) as tracer:
        plain_seen = tracer.cache()
    return {
        "all": _everything(seen),
        "plain_all": _everything(plain_seen),
    }


def _keys_and_values(kept):
    return [tensor.detach() for layer in kept.layers for tensor in (layer.keys, layer.values)]


def key_value_cache(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        layers[0].output = layers[0].output * 2
        kept = model.output.past_key_values.save()
    with model.trace(PROMPT, remote=remote) as tracer:
        plain_kept = tracer.result.past_key_values.save()
    with model.session(remote=remote):
        with model.trace(PROMPT):
            grown = model.output.past_key_values
        with model.trace(SHORT, past_key_values=grown):
            layers[0].output = layers[0].output * 2
            later = head.output.save()
        with model.trace(PROMPT):
            again = model.output.past_key_values
        with model.trace(SHORT, past_key_values=again):
            plain_later = head.output.save()
    return {
        "kept": _keys_and_values(kept),
        "plain_kept": _keys_and_values(plain_kept),
        "later": later,
        "plain_later": plain_later,
    }


def edit_a_copy(model, remote):
    layers, _, head = parts(model)
    with model.edit() as (tracer, edited):
        parts(edited)[0][1].output[:, -1] = 0
    with edited.trace(PROMPT, remote=remote):
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    with edited.trace(PROMPT, remote=remote):
        same_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits, "same_logits": same_logits}


def edit_inplace_and_clear(model, remote):
    layers, _, head = parts(model)
    with model.edit(inplace=True):
        layers[1].output = layers[1].output * 2
    with model.edit(inplace=True):
        layers[2].output[:, 0] = 1
    try:
        with model.trace(PROMPT, remote=remote):
            logits = head.output.save()
    finally:
        model.clear_edits()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}


def padded_batch(model, remote):
    layers, _, head = parts(model)
    prompts = [PROMPT, SHORT, OTHER]
    with model.trace(prompts, remote=remote):
        layers[1].output[1] = 0  # the short row only
        logits = head.output.save()
    with model.trace(prompts, remote=remote):
        plain_logits = head.output.save()
    return {
        "logits": logits,
        "plain_logits": plain_logits,
        "untouched": logits[[0, 2]],
        "same_untouched": plain_logits[[0, 2]],
    }


def padded_encoding(model, remote):
    layers, _, head = parts(model)
    encoding = model.tokenizer([SHORT, PROMPT], return_tensors="pt", padding=True)
    with model.trace(encoding, remote=remote):
        mask = encoding["attention_mask"].unsqueeze(-1)
        layers[1].output = layers[1].output * mask * 0.5
        logits = head.output.save()
    with model.trace(encoding, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}


def padded_invokes(model, remote):
    layers, _, head = parts(model)
    with model.trace(remote=remote) as tracer:
        with tracer.invoke([SHORT, PROMPT]):
            layers[0].output[0] = 0
            pair = head.output.save()
        with tracer.invoke(OTHER):
            single = head.output.save()
    with model.trace(remote=remote) as tracer:
        with tracer.invoke([SHORT, PROMPT]):
            plain_pair = head.output.save()
        with tracer.invoke(OTHER):
            same_single = head.output.save()
    return {"pair": pair, "plain_pair": plain_pair, "single": single, "same_single": same_single}


def on_a_submodule(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        path = layers[1].path.partition(".")[2]
        model.get(path).mlp.output = model.get(path).mlp.output * -1
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}
