"""Programs as researchers write them and the grammar does not draw them: what they set holds for the whole process.

They set it for a moment, while the model runs on, or leave it behind; or they end in unusual ways.
"""

from textwrap import dedent, indent

from tests.support.programs.draft import HEADER
from tests.support.programs.program import Program

_ROW = (5, 9, 13, 2, 30, 7, 21, 11)
_LONGER = ((4, 18, 26, 3, 9, 14, 8, 29, 12, 23, 6), (17, 3, 28, 5, 22, 10, 31, 7, 19, 2, 25, 16, 11))
"""Of one bucket with that: in one pass it is padded."""
_PROMPT = f"torch.tensor([{[*_ROW]}])"
_TRACE = f"with model.trace({_PROMPT}"

NEIGHBOURS = {
    "reads_all_layers": """
        seen = nnsight.save([torch.ones(3) / 3])
        for block in model.transformer.h:
            seen.append(block.output[:, -1].clone())
            seen.append(torch.rand(2).dtype)
        logits = model.lm_head.output.save()
        print(torch.tensor(1 / 3), logits.requires_grad)
    """,
    "edits_layers": """
        for number, block in enumerate(model.transformer.h):
            block.output[:, 2] += 0.5 * number
        logits = model.lm_head.output.save()
    """,
}
"""What shares passes with the others, and would show what they do."""

MODES = {
    "no_grad_meanwhile": """
        before = model.transformer.h[0].output.save()
        with torch.no_grad():
            within = model.transformer.h[1].output.save()
            product = (within * 2).save()
            next_one = model.transformer.h[2].output.save()
        logits = model.lm_head.output.save()
    """,
    "no_grad_at_first": """
        with torch.no_grad():
            within = model.transformer.h[1].output.save()
        logits = model.lm_head.output.save()
    """,
    "grad_for_a_part": """
        torch.set_grad_enabled(False)
        before = model.transformer.h[0].output.save()
        with torch.enable_grad():
            within = model.transformer.h[1].output.save()
        after = model.transformer.h[2].output.save()
    """,
    "autocast_at_first": """
        with torch.autocast("cpu", dtype=torch.bfloat16):
            within = model.transformer.h[1].output.save()
        logits = model.lm_head.output.save()
    """,
    "autocast_meanwhile": """
        before = model.transformer.h[0].output
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product = (before @ torch.ones(32, 4)).save()
            within = model.transformer.h[1].output.save()
        logits = model.lm_head.output.save()
    """,
    "counts_flops": """
        from torch.utils.flop_counter import FlopCounterMode
        before = model.transformer.h[0].output
        with FlopCounterMode(display=False) as flops:
            within = model.transformer.h[2].output.save()
        counted = nnsight.save([flops.get_total_flops()])
    """,
    "trains_meanwhile": """
        before = model.transformer.h[0].output.save()
        model.train()
        shapes = nnsight.save([model.lm_head.output.shape])
        model.eval()
    """,
    "hook_meanwhile": """
        before = model.transformer.h[0].output.save()
        module = model.transformer.h[1]._module
        handle = module.register_forward_pre_hook(lambda _, args: (args[0] * 0.5, *args[1:]))
        within = model.transformer.h[2].output.save()
        handle.remove()
        logits = model.lm_head.output.save()
    """,
    "configuration_meanwhile": """
        before = model.transformer.h[0].output.save()
        model.config.use_cache = False
        logits = model.lm_head.output.save()
        model.config.use_cache = True
    """,
}
"""By these the model itself computes otherwise, in the middle of its pass."""

SETTINGS = {
    "double_meanwhile": """
        torch.set_default_dtype(torch.float64)
        before = model.transformer.h[0].output.save()
        ones = torch.ones(3).save()
        torch.set_default_dtype(torch.float32)
        after = model.transformer.h[2].output.save()
    """,
    "default_device": """
        torch.set_default_device("cpu")
        before = model.transformer.h[0].output.save()
    """,
    "patches_layer_norm": """
        real = torch.nn.LayerNorm.forward
        torch.nn.LayerNorm.forward = lambda self, value: real(self, value) * 2
        within = model.transformer.h[2].output.save()
        torch.nn.LayerNorm.forward = real
        logits = model.lm_head.output.save()
    """,
    "leaves_an_attention": """
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions
        before = model.transformer.h[0].output.save()
        real = functions["sdpa"]
        functions["sdpa"] = lambda *args, **kwargs: (real(*args, **kwargs)[0] * 0, None)
        after = model.transformer.h[2].output.save()
    """,
    "logs": """
        import logging
        logging.warning("at first")
        before = model.transformer.h[0].output.save()
        logging.warning("later on")
    """,
    "prints_shortly": """
        torch.set_printoptions(precision=1)
        before = model.transformer.h[0].output.save()
        print(torch.tensor(1 / 3))
        after = model.transformer.h[2].output.save()
    """,
    "sets_the_environment": """
        import os
        known = nnsight.save([os.environ.get("UNUSUAL"), str(os.environ.get("HOME"))])
        os.environ["UNUSUAL"] = "1"
        before = model.transformer.h[0].output.save()
    """,
    "watches_python": """
        import sys
        before = model.transformer.h[0].output.save()
        sys.settrace(lambda frame, *_: print("entered", frame.f_code.co_name))
        shape = nnsight.save([before.shape])
        sys.settrace(None)
        sys.settrace(lambda *_: None)
    """,
    "sets_an_alarm": """
        import signal
        def ring(*_):
            raise TimeoutError("it took too long")
        before = model.transformer.h[0].output.save()
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        while True:
            pass
    """,
    "exits": """
        before = model.transformer.h[0].output.save()
        raise SystemExit(3)
    """,
    "is_interrupted": """
        before = model.transformer.h[0].output.save()
        raise KeyboardInterrupt
    """,
    "asks_for_an_unknown_token": "logits = model.lm_head.output.save()",
}
"""What others who run in the same process would meet, at the same time or later."""

_SESSIONS = {
    "session_with_a_patch": f"""
        from unittest import mock
        functional = torch.nn.functional
        real = functional.scaled_dot_product_attention
        with model.session(backend=backend):
            with mock.patch.object(functional, "scaled_dot_product_attention", lambda *a, **k: real(*a, **k) * 0.5):
                {_TRACE}):
                    patched = model.transformer.h[1].output.save()
            {_TRACE}):
                plain = model.transformer.h[1].output.save()
    """,
    "session_that_leaves_a_hook": f"""
        with model.session(backend=backend):
            def doubled(module, args, output):
                return output * 2 if type(module).__name__ == "LayerNorm" else None
            torch.nn.modules.module.register_module_forward_hook(doubled)
            {_TRACE}):
                hooked = model.transformer.h[1].output.save()
    """,
    "generates_by_default": f"""
        with model.generate({_PROMPT}, min_new_tokens=1, backend=backend) as tracer:
            tokens = tracer.result.save()
    """,
    "generates_with_gradients": f"""
        with model.generate({_PROMPT}, max_new_tokens=2, min_new_tokens=2, backend=backend) as tracer:
            seen = nnsight.save([])
            with torch.enable_grad():
                for step in tracer.iter[:2]:
                    seen.append(model.transformer.h[1].output)
            seen.append(torch.is_grad_enabled())
    """,
}
"""Whole programs."""


def neighbours() -> list[Program]:
    return [_traced(name, text) for name, text in NEIGHBOURS.items()]


def longer_neighbours() -> list[Program]:
    """The same, with longer prompts than all others here."""
    return [
        _traced(f"{name}_longer", text, row)
        for (name, text), row in zip(NEIGHBOURS.items(), _LONGER, strict=True)
    ]


def modes() -> list[Program]:
    return [_traced(name, text) for name, text in MODES.items()]


def settings() -> list[Program]:
    traced = [_traced(name, text) for name, text in SETTINGS.items()]
    return [*traced, *(_program(name, dedent(text).strip("\n")) for name, text in _SESSIONS.items())]


def _traced(name: str, text: str, row: tuple[int, ...] = _ROW) -> Program:
    prompt = f"torch.tensor([{[*row]}])"
    prompt = prompt.replace("30", "3000") if "unknown_token" in name else prompt
    head = f"with model.trace({prompt}, backend=backend) as tracer:\n"
    return _program(name, head + indent(dedent(text).strip("\n"), "    "), row)


def _program(name: str, text: str, row: tuple[int, ...] = _ROW) -> Program:
    source = f"{HEADER}{indent(text, '    ')}\n"
    return Program(name=name, family="gpt2", kind="trace", source=source, prompts=((row,),))
