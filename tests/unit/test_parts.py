"""How tests are divided over processes."""

from pathlib import Path

import pytest

from tests.support.parts import LONGEST_FIRST, OF_ONE_BUCKET, OF_ONE_FABRIC, part_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("test", "part"),
    [
        ("tests/unit/test_parts.py::test_a[x::y]", "tests/unit/test_parts.py"),
        ("tests/escape/test_hosts.py::test_a[shared]", "tests/escape/test_hosts.py"),
        ("tests/fabric/test_edges.py::test_a[x]", "tests/fabric[open]"),
        ("tests/fabric/test_bad_input.py::test_a", "tests/fabric[open]"),
        ("tests/fabric/test_s3.py::test_a", "tests[bucket]"),
        (
            "tests/conformance/test_programs.py::test_a[shared-traces.sealed[gpt2]]",
            "tests/conformance[shared]",
        ),
        ("tests/conformance/test_programs.py::test_a[sealed-x.shared[gpt2]]", "tests/conformance[sealed]"),
        ("tests/conformance/test_same_file_name.py::test_a", "tests/conformance[sealed]"),
    ],
)
def test_what_shares_a_fabric_is_one_part(test: str, part: str) -> None:
    assert part_of(test) == part


def test_the_longest_parts_are_there() -> None:
    """One that was renamed would silently come last."""
    parts = (*LONGEST_FIRST, *OF_ONE_FABRIC, *OF_ONE_BUCKET)
    assert [part for part in parts if not (ROOT / part.partition("[")[0]).exists()] == []
