"""Served models that the tests of this folder share."""

from collections.abc import Iterator

import pytest

from tests.unit.executor.merging import tiny
from tests.unit.executor.merging.jobs import Site, site


@pytest.fixture(scope="package")
def gpt2() -> Iterator[Site]:
    with site(tiny.gpt2) as made:
        yield made


@pytest.fixture(scope="package")
def llama() -> Iterator[Site]:
    with site(tiny.llama) as made:
        yield made


@pytest.fixture(scope="package")
def mixtral() -> Iterator[Site]:
    with site(tiny.mixtral) as made:
        yield made
