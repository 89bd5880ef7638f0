"""How ``make test`` divides the tests over processes: what starts the same thing stays in one, the longest comes first.

Without ``-n`` this changes nothing.
"""

from collections import Counter
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

OF_ONE_FABRIC = ("tests/fabric/test_bad_input.py", "tests/fabric/test_edges.py")
"""Files that use the fabric of ``tests/fabric/conftest.py``."""

OF_ONE_BUCKET = (
    "tests/fabric/test_s3.py",
    "tests/unit/blobs/test_contract.py",
    "tests/unit/blobs/test_s3_blobs.py",
    "tests/unit/gateway/test_bucket.py",
)
"""Files that use the one S3 server, which takes longer to start than most of its tests."""

BY_ISOLATION = "tests/conformance"
"""A folder whose files share one fabric for each kind of isolation, by which its tests are named."""

LONGEST_FIRST = (
    "tests/fabric/test_chaos.py",
    "tests/fabric/test_recovery.py",
    "tests/fabric[open]",
    "tests/escape/test_escape.py",
    "tests/escape/test_hosts.py",
    "tests/escape/test_merged.py",
    "tests/merging/test_random_programs.py",
    "tests/merging/test_misfits.py",
    "tests/merging/test_unusual_programs.py",
    "tests/fabric/test_shares.py",
    "tests/fabric/test_standby.py",
    "tests[bucket]",
    "tests/fabric/test_connect.py",
    "tests/fabric/test_people.py",
    "tests/fabric/test_sealed.py",
    "tests/fabric/test_tls.py",
    "tests/conformance[sealed]",
    "tests/conformance[shared]",
    "tests/fabric/test_old_clients.py",
    "tests/fabric/test_large_results.py",
    "tests/fabric/test_neighbours.py",
    "tests/fabric/test_client_page.py",
    "tests/fabric/test_welcome.py",
)
"""Parts that take more than half a minute, so that none of them is begun when there is nothing left to do beside it."""


def part_of(nodeid: str) -> str:
    """The part that a test belongs to; a file, as a rule."""
    file, _, test = nodeid.partition("::")
    if file in OF_ONE_FABRIC:
        return "tests/fabric[open]"
    if file in OF_ONE_BUCKET:
        return "tests[bucket]"
    if file.startswith(f"{BY_ISOLATION}/"):
        return f"{BY_ISOLATION}[{'shared' if '[shared' in test else 'sealed'}]"
    return file


def tell_apart(items: list[pytest.Item]) -> None:
    """See that each test has an id of its own: of several with one id, only one would be handed out.

    Raises:
        pytest.UsageError: some have not.
    """
    for item in items:
        if item.name not in item.nodeid:  # pytest 9.2 makes no ids of the names that schemathesis 4.32 gives
            item._id = item.parent.id.child(item.name)
    twice = [nodeid for nodeid, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:
        raise pytest.UsageError(f"Several tests have one id: {', '.join(twice)}.")


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
