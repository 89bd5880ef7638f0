"""The attacks, read from their files without running them: name, what it does, what it is after."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ATTACKS = Path(__file__).parent / "attacks"
_TOOLS = ("kit",)


@dataclass(frozen=True)
class Attack:
    """One file of ``attacks/``.

    Attributes:
        kind: which effect it is after; a key of ``EFFECTS`` in ``test_escape.py``.
        evidence: a text that shows that it has succeeded, where no planted secret can.
        needs: what the host must have for it to succeed without a wall.
        not_without: why it succeeds on no host, wall or not.
    """

    name: str
    doc: str
    kind: str
    evidence: str
    needs: str
    not_without: str


@cache
def catalogue() -> tuple[Attack, ...]:
    return tuple(_read(path) for path in sorted(ATTACKS.glob("*.py")) if path.stem not in _TOOLS)


def _read(path: Path) -> Attack:
    tree = ast.parse(path.read_text())
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _is_plain(node.value)
    }
    return Attack(
        path.stem,
        (ast.get_docstring(tree) or "").splitlines()[0],
        constants["KIND"],
        constants.get("EVIDENCE", ""),
        constants.get("NEEDS", ""),
        constants.get("NOT_WITHOUT", ""),
    )


def _is_plain(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant)
