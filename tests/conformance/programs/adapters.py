"""A LoRA adapter through ``peft=``, and the shared model after it."""

from parts import PROMPT, parts

ONLY = "gpt2"


def adapter_then_clean(model, lora, remote):
    _, _, head = parts(model)
    with model.trace(PROMPT, remote=remote):
        plain_logits = head.output.save()
    with lora.trace(PROMPT, remote=remote):
        logits = lora.lm_head.output.save()
    with model.trace(PROMPT, remote=remote):
        clean = head.output.save()
    with lora.trace(PROMPT, remote=remote):
        same_logits = lora.lm_head.output.save()
    return {
        "logits": logits,
        "plain_logits": plain_logits,
        "same_logits": same_logits,
        "clean": clean,
        "same_clean": plain_logits,
    }


def inside_the_adapter(lora, remote):
    with lora.trace(PROMPT, remote=remote):
        low_rank = lora.transformer.h[0].attn.c_attn.lora_A.default.output.save()
        lora.transformer.h[1].attn.c_attn.lora_B.default.output[:] = 0
        logits = lora.lm_head.output.save()
    with lora.trace(PROMPT, remote=remote):
        plain_logits = lora.lm_head.output.save()
    return {"low_rank": low_rank, "logits": logits, "plain_logits": plain_logits}


def gradients_around_the_adapter(model, lora, remote):
    """An adapter freezes the weights while it is on; the plain model has its gradients back afterwards."""
    with lora.trace(PROMPT, remote=remote):
        embedded = lora.transformer.wte.output.requires_grad_()
        with lora.lm_head.output[:, -1, 5].sum().backward():
            gradient = embedded.grad.save()
    with model.trace(PROMPT, remote=remote):
        embedded = model.transformer.wte.output
        with model.lm_head.output[:, -1, 5].sum().backward():
            plain_gradient = embedded.grad.save()
    return {"gradient": gradient, "plain_gradient": plain_gradient}
