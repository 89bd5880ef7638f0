"""The devices that tests run on: the twin in the host's memory everywhere, and a card where there is one."""

from pathlib import Path

import pytest

from edif.wire.link import ON_CUDA, ON_HOST

DEVICES = [
    ON_HOST,
    pytest.param(
        ON_CUDA,
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="there is no GPU"),
        ],
    ),
]
