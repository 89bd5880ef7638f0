"""Jobs that leave their process other than they found it, each followed by an ordinary one."""

import random

import torch

from parts import PROMPT, SHORT

READS = {"after_careless_jobs"}
ONLY = "gpt2"


def _switches(model):
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.autograd.set_detect_anomaly(True)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    random.seed(0)


def _device(model):
    torch.set_default_device("meta")


def _settings(model):
    model._module.train()
    model._module.requires_grad_(False)
    model._module.config.use_cache = False
    model._module.config._attn_implementation = "eager"
    model._module.generation_config.max_new_tokens = 1
    model.transformer.h[0].attn._module.scaling = 0.0


def _weights(model):
    with torch.no_grad():
        model.lm_head._module.weight.zero_()


def _weights_unnoticed(model):
    model.transformer.h[0].mlp.c_fc._module.bias.data += 1


def _new_parameter(model):
    head = model.lm_head._module
    head.weight = torch.nn.Parameter(torch.zeros_like(head.weight))


def _module(model):
    model.transformer._module.ln_f = torch.nn.Identity()


def _hook(model):
    model.lm_head._module.register_forward_hook(lambda module, inputs, output: output * 0)


def _forward(model):
    model.transformer.h[1].mlp._module.forward = lambda hidden: hidden * 0


def _tokenizer(model):
    model.tokenizer.padding_side = "right"
    model.tokenizer.add_tokens(["dog ran"])


def _functions(model):
    torch.nn.functional.layer_norm = lambda tensor, *rest: tensor * 0
    torch.Tensor.argmax = lambda *rest: torch.tensor(3)


CARELESS = (
    _switches,
    _device,
    _settings,
    _weights,
    _weights_unnoticed,
    _new_parameter,
    _module,
    _hook,
    _forward,
    _tokenizer,
    _functions,
)


def after_careless_jobs(model, remote):
    # Locally they would not be undone, so there each stands for the same ordinary session.
    after = {}
    for careless in (None, *CARELESS):
        if remote and careless is not None:
            with model.trace(PROMPT, remote=True):
                embedded = model.transformer.wte.output  # so that the model is under way
                careless(model)
        name = "_at_first" if careless is None else careless.__name__
        after[name] = _look(model, remote) if remote or careless is None else after["_at_first"]
    return after


def _look(model, remote):
    """An ordinary session that would show most residues."""
    with model.session(remote=remote):
        with model.trace([PROMPT, SHORT]):
            weights = model.transformer.h[0].attn.output[1]
            hidden = model.transformer.h[1].output
            logits = model.lm_head.output.save()
            with logits[:, -1, 5].sum().backward():
                gradient = hidden.grad.save()
        with model.generate(PROMPT, min_new_tokens=4) as tracer:
            tokens = tracer.result[:, -1:].save()
        facts = [
            torch.zeros(1).dtype == torch.float32,
            torch.zeros(1).device.type == "cpu",
            torch.is_anomaly_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
            weights is None,
            model._module.training,
            model._module.lm_head.weight.requires_grad,
            model._module.lm_head.weight.grad is None,
        ].save()
    return [logits, gradient, tokens, facts]
