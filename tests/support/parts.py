"""How ``make test`` divides the tests over processes: what starts the same thing stays in one, the longest comes first.

Without ``-n`` this changes nothing.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/escape",)
"""Folders whose files share fabrics."""

BY_ISOLATION = "tests/conformance"
"""A folder whose files share one fabric for each kind of isolation, by which its tests are named."""

LONGEST_FIRST = (
    "tests/fabric/test_chaos.py",
    "tests/escape",
    "tests/fabric/test_shares.py",
    "tests/fabric/test_standby.py",
    "tests/fabric/test_recovery.py",
    "tests/fabric/test_edges.py",
    "tests/fabric/test_bad_input.py",
    "tests/fabric/test_sealed.py",
    "tests/conformance[sealed]",
    "tests/conformance[shared]",
    "tests/unit/records/test_contract.py",
)
"""Parts that take more than a few seconds, so that none of them is begun when there is nothing left to do beside it."""


def part_of(nodeid: str) -> str:
    """The part that a test belongs to; a file, as a rule."""
    file, _, test = nodeid.partition("::")
    for folder in TOGETHER:
        if file.startswith(f"{folder}/"):
            return folder
    if file.startswith(f"{BY_ISOLATION}/"):
        return f"{BY_ISOLATION}[{'shared' if '[shared' in test else 'sealed'}]"
    return file


def longest_first(items: list[pytest.Item]) -> None:
    """Sort the tests of one run by part."""
    ranks = {part: rank for rank, part in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(part_of(item.nodeid), len(ranks)))


class InParts(LoadScopeScheduling):
    """Hands out whole parts, in the order of the tests."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # by number of tests

    def _split_scope(self, nodeid: str) -> str:
        return part_of(nodeid)
