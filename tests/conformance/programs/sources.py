"""Inside a module's forward: ``.source``, for reading, editing and skipping single operations."""

from parts import PROMPT, attention_of, parts


def edit_an_operation(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        operation = attention_of(layers[1]).source.attention_interface_1
        mixed = operation.output[0].save()
        operation.output = (operation.output[0] * 3, None)
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        same_mixed = attention_of(layers[1]).source.attention_interface_1.output[0].save()
        plain_logits = head.output.save()
    return {"mixed": mixed, "same_mixed": same_mixed, "logits": logits, "plain_logits": plain_logits}


def edit_an_assignment(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        keys = attention_of(layers[0]).source.key_states_0 if hasattr(model, "model") else None
        keys = keys or attention_of(layers[0]).source.key_states_2
        keys.output = keys.output.flip(-1)
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}


def skip_an_operation(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        activation = getattr(
            layers[1].mlp.source, "self_act_0" if hasattr(model, "transformer") else "self_act_fn_0"
        )
        activation.skip(activation.input)
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    return {"logits": logits, "plain_logits": plain_logits}


def nested_operation(model, remote):
    layers, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        interface = attention_of(layers[1]).source.attention_interface_1
        inner = interface.source.torch_nn_functional_scaled_dot_product_attention_0
        inner.output = inner.output * 2
        doubled = inner.output.save()
        logits = head.output.save()
    with model.trace(PROMPT, remote=remote):
        interface = attention_of(layers[1]).source.attention_interface_1
        plain_doubled = interface.source.torch_nn_functional_scaled_dot_product_attention_0.output.save()
        plain_logits = head.output.save()
    return {
        "doubled": doubled,
        "plain_doubled": plain_doubled,
        "logits": logits,
        "plain_logits": plain_logits,
    }
