"""One hypothesis profile for all unit tests (the same examples at every run, unless it is a soak), a small disk."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.sizes import SIZES
from tests.support import small_disk as mounted

settings.register_profile(
    "edif",
    max_examples=SIZES.examples,
    derandomize=SIZES.derandomize,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("edif")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    with mounted.small_disk(tmp_path / "disk", mib=1) as disk:
        yield disk
