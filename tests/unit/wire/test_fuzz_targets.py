"""The laws of ``fuzz/`` hold for valid messages, for damaged ones, and for what a fuzzer has found."""

from random import Random

import pytest

from fuzz import client_envelope, packed_results, pipe_messages, seat_messages, worker_link
from fuzz.target import Target, damaged
from tests.sizes import SIZES

TARGETS = {
    **pipe_messages.TARGETS,
    **client_envelope.TARGETS,
    **worker_link.TARGETS,
    **packed_results.TARGETS,
    **seat_messages.TARGETS,
}

# What once broke a law: the target, and the bytes of the file that the fuzzer left.
LANGUAGE_MODEL = b"nnsight.modeling.language.LanguageModel:"
FOUND = [
    ("key", LANGUAGE_MODEL + b'{"' + b"repo" * 1000 + b'": 1}'),
    ("key", LANGUAGE_MODEL + b'{"repo_id": "org/' + b"name/" * 800 + b'"}'),
    ("key", LANGUAGE_MODEL + b'{"repo_id": "org/plain", "task": "' + b"t" * 4000 + b'"}'),
    ("family", bytes([128 + 41])),  # a signal without a name
    ("family", b"\0\0\0\x93\xa4Done\xcb\x7f\xf8\0\0\0\0\0\0\x01"),  # that took NaN seconds
]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    return TARGETS[request.param]


def test_seeds_are_the_same_at_every_call_and_some_are_accepted(target: Target) -> None:
    seeds = target.seeds()
    assert seeds == target.seeds()
    assert max(map(len, seeds)) <= target.most_bytes
    assert True in [target.check(seed) for seed in seeds]  # all of them are checked


def test_damaged_seeds_break_no_law(target: Target) -> None:
    random = Random(0 if SIZES.derandomize else None)
    seeds = target.seeds()
    for _ in range(SIZES.damaged):
        data = damaged(seeds, random)[: target.most_bytes]
        try:
            target.check(data)
        except BaseException as error:
            error.add_note(f"The input: {data!r}")
            raise


@pytest.mark.parametrize(("name", "data"), FOUND, ids=lambda value: str(value[:10]))
def test_what_was_found_is_mended(name: str, data: bytes) -> None:
    TARGETS[name].check(data)
