"""Programs that go wrong on purpose, in company or alone."""

from tests.support.programs.draft import HEADER
from tests.support.programs.places import backbone
from tests.support.programs.program import Program

_ROW = (5, 9, 13, 2, 30, 7, 21, 11, 4, 18, 26, 3)


def raising(family: str, length: int = 8, layer: int = 1) -> Program:
    """Fails when the model is in the midst of the pass."""
    message = f"raised at layer {layer}"
    return _misfit("raises", family, length, layer, f"raise ValueError({message!r})", raises=message)


def stopping(family: str, length: int = 8, layer: int = 1) -> Program:
    """Needs no more of the pass."""
    return _misfit("stops", family, length, layer, "tracer.stop()")


def sleeping(family: str, seconds: float, length: int = 8, layer: int = 1) -> Program:
    """Has the pass wait for it."""
    return _misfit("sleeps", family, length, layer, f"import time; time.sleep({seconds})")


def dawdling(family: str, seconds: float, steps: int, length: int = 8, layer: int = 1) -> Program:
    """Has a generation wait for it a little, again and again: at every step."""
    lines = [
        f"    with model.generate(torch.tensor([{list(_ROW[:length])}]), max_new_tokens={steps}, "
        f"min_new_tokens={steps}, backend=backend) as tracer:",
        "        seen = nnsight.save([])",
        "        import time",
        "        for step in tracer.iter[:]:",
        f"            seen.append(model.{backbone(family)[0]}[{layer}].output[:, -1].clone())",
        f"            time.sleep({seconds})",
    ]
    source = HEADER + "\n".join(lines) + "\n"
    name = f"{family}-dawdles-{seconds}-{steps}".replace(".", "")
    return Program(name, family, "dawdles", source, ((_ROW[:length],),), steps=steps)


def calling_c(family: str, rounds: int, length: int = 8, layer: int = 1) -> Program:
    """Makes one call into C, which hears no signal; 1,000,000 rounds of it take about half a second."""
    deed = f'import hashlib; hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})'
    return _misfit("calls_c", family, length, layer, deed)


def telling_its_process(family: str, length: int = 8, layer: int = 1) -> Program:
    """Goes well, and says in its output which process runs it."""
    return _misfit("tells", family, length, layer, "import os; print(os.getpid())")


def drawing_numbers(family: str, length: int = 8, layer: int = 1) -> Program:
    """Goes well, and says in its output what Python, numpy and torch drew by chance."""
    draw = (
        "import random; print(random.random(), np.random.rand(), torch.rand(1, dtype=torch.float64).item())"
    )
    return _misfit("draws", family, length, layer, draw)


def endless(family: str, length: int = 8, layer: int = 1) -> Program:
    """Never gives the pass on."""
    return _misfit("endless", family, length, layer, "while True: pass")


def exiting(family: str, length: int = 8, layer: int = 1) -> Program:
    """Ends its process with exit code 3."""
    return _misfit("exits", family, length, layer, "import os; os._exit(3)")


def killed(family: str, length: int = 8, layer: int = 1) -> Program:
    """Kills its process."""
    return _misfit("killed", family, length, layer, "import os; os.kill(os.getpid(), 9)")


def _misfit(kind: str, family: str, length: int, layer: int, deed: str, raises: str | None = None) -> Program:
    batch = (_ROW[:length],)
    path = f"model.{backbone(family)[0]}[{layer}]"
    lines = [
        f"    with model.trace(torch.tensor({[list(row) for row in batch]}), backend=backend) as tracer:",
        f"        before = {path}.output[:, -1].clone().save()",
        f"        {deed}",
    ]
    if kind == "sleeps":
        lines.append("        after = model.lm_head.output[:, -1].save()")
    return Program(
        name=f"{family}-{kind}-{length}-{layer}",
        family=family,
        kind=kind,
        source=HEADER + "\n".join(lines) + "\n",
        prompts=(batch,),
        raises=raises,
    )
