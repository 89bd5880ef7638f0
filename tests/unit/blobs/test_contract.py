"""The contract of the blob store: what every implementation must do."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edif.blobs.store import BlobStore, job_of, payload_name, result_name
from edif.core import errors
from edif.core.errors import OverLimit
from tests.unit.blobs.factories import BlobFactory, chunks_of

NAME = payload_name("j1")
LIMIT = 1_000_000


# -- put, size, read, delete ---------------------------------------------------------------------------
@given(chunks=st.lists(st.binary(max_size=300), max_size=6))
def test_blob_is_read_as_its_chunks_came(
    factory: BlobFactory, chunks: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def there_and_back() -> None:
        store = factory.open(tmp_path_factory.mktemp("blobs"))
        whole = b"".join(chunks)
        assert await store.put(NAME, chunks_of(*chunks), limit_bytes=LIMIT) == len(whole)
        assert await store.size(NAME) == len(whole)
        assert await store.read(NAME) == whole

    asyncio.run(there_and_back())


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 900_000])
async def test_blob_of_any_size_in_one_chunk(store: BlobStore, size: int) -> None:
    content = bytes(index % 251 for index in range(size))
    assert await store.put(NAME, chunks_of(content), limit_bytes=LIMIT) == size
    assert await store.read(NAME) == content


async def test_unknown_blob_has_no_size_and_cannot_be_read(store: BlobStore) -> None:
    assert await store.size(NAME) is None
    with pytest.raises(FileNotFoundError):
        await store.read(NAME)


async def test_deleted_blob_is_gone_and_may_be_deleted_again(store: BlobStore) -> None:
    await store.put(NAME, chunks_of(b"abc"), limit_bytes=LIMIT)
    await store.delete(NAME)
    assert await store.size(NAME) is None
    await store.delete(NAME)


async def test_blobs_of_different_names_do_not_meet(store: BlobStore) -> None:
    names = [payload_name("j1"), result_name("j1", 1), payload_name("j2")]
    for name in names:
        await store.put(name, chunks_of(name.encode()), limit_bytes=LIMIT)
    await store.delete(names[2])
    assert [await store.read(name) for name in names[:2]] == [name.encode() for name in names[:2]]


async def test_later_put_replaces_the_earlier_one_whole(store: BlobStore) -> None:
    """A job that is tried again writes its result again."""
    await store.put(NAME, chunks_of(b"long " * 100), limit_bytes=LIMIT)
    await store.put(NAME, chunks_of(b"short"), limit_bytes=LIMIT)
    assert await store.read(NAME) == b"short"


async def test_blob_is_there_when_the_store_is_opened_again(factory: BlobFactory, tmp_path: Path) -> None:
    await factory.open(tmp_path).put(NAME, chunks_of(b"abc"), limit_bytes=LIMIT)
    assert await factory.open(tmp_path).read(NAME) == b"abc"


async def test_names_are_those_of_all_blobs_and_say_whose_they_are(store: BlobStore) -> None:
    assert await store.names() == []
    results = {result_name("j-1", 1), result_name("j-1", 12), result_name("j-1", 12, revocations=3)}
    names = {payload_name("j-1"), payload_name("j2"), *results}
    for name in names:
        await store.put(name, chunks_of(b"x"), limit_bytes=LIMIT)
    found = await store.names()
    assert set(found) == names
    assert sorted(map(job_of, found)) == ["j-1", "j-1", "j-1", "j-1", "j2"]


# -- rename --------------------------------------------------------------------------------------------
OLD, NEW = result_name("j1", 1), result_name("j1", 1, revocations=1)


@pytest.mark.parametrize("size", [0, 1, 900_000])
async def test_renamed_blob_is_there_under_its_new_name_alone(
    store: BlobStore, factory: BlobFactory, tmp_path: Path, size: int
) -> None:
    content = bytes(index % 251 for index in range(size))
    await store.put(OLD, chunks_of(content), limit_bytes=LIMIT)
    await store.rename(OLD, NEW)
    assert await store.read(NEW) == content
    assert await store.size(OLD) is None
    assert factory.everything(tmp_path) == {NEW: size}


async def test_renaming_what_is_not_there_is_told_and_changes_nothing(store: BlobStore) -> None:
    await store.put(NEW, chunks_of(b"new"), limit_bytes=LIMIT)
    with pytest.raises(FileNotFoundError):
        await store.rename(OLD, NEW)
    assert await store.read(NEW) == b"new"


async def test_renaming_replaces_what_has_the_name(
    store: BlobStore, factory: BlobFactory, tmp_path: Path
) -> None:
    """A renaming that broke off may have made the copy already."""
    await store.put(OLD, chunks_of(b"whole"), limit_bytes=LIMIT)
    await store.put(NEW, chunks_of(b"x"), limit_bytes=LIMIT)
    await store.rename(OLD, NEW)
    assert await store.read(NEW) == b"whole"
    assert factory.everything(tmp_path) == {NEW: 5}


async def test_renamings_at_once_leave_the_blob_once(
    store: BlobStore, factory: BlobFactory, tmp_path: Path
) -> None:
    await store.put(OLD, chunks_of(b"x" * 70_000), limit_bytes=LIMIT)
    ends = await asyncio.gather(*(store.rename(OLD, NEW) for _ in range(8)), return_exceptions=True)
    assert {type(end) for end in ends} <= {type(None), FileNotFoundError}
    assert factory.everything(tmp_path) == {NEW: 70_000}


# -- all or nothing ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("limit", "fits"), [(6, True), (5, False), (0, False)])
async def test_limit_counts_all_chunks(
    store: BlobStore, factory: BlobFactory, tmp_path: Path, limit: int, fits: bool
) -> None:
    if fits:
        assert await store.put(NAME, chunks_of(b"abc", b"def"), limit_bytes=limit) == 6
        return
    with pytest.raises(OverLimit) as refused:
        await store.put(NAME, chunks_of(b"abc", b"def"), limit_bytes=limit)
    assert refused.value.kind is errors.BODY_TOO_LARGE
    assert factory.everything(tmp_path) == {}


async def test_over_the_limit_no_more_is_read(store: BlobStore) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 100

    with pytest.raises(OverLimit):
        await store.put(NAME, endless(), limit_bytes=1000)
    assert taken == 11


async def test_refused_put_leaves_the_earlier_blob(store: BlobStore) -> None:
    await store.put(NAME, chunks_of(b"abc"), limit_bytes=LIMIT)
    with pytest.raises(OverLimit):
        await store.put(NAME, chunks_of(b"abcdef"), limit_bytes=5)
    assert await store.read(NAME) == b"abc"


async def test_blob_is_not_seen_while_it_is_written(store: BlobStore) -> None:
    seen = []

    async def watching() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 70_000
            seen.append(await store.size(NAME))

    await store.put(NAME, watching(), limit_bytes=LIMIT)
    assert seen == [None, None, None]


async def test_source_that_breaks_off_leaves_nothing(
    store: BlobStore, factory: BlobFactory, tmp_path: Path
) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise ConnectionError("the client is gone")

    with pytest.raises(ConnectionError, match="the client is gone"):
        await store.put(NAME, breaking(), limit_bytes=LIMIT)
    assert factory.everything(tmp_path) == {}


async def test_put_that_is_cancelled_while_it_waits_leaves_nothing(
    store: BlobStore, factory: BlobFactory, tmp_path: Path
) -> None:
    waiting = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        waiting.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(store.put(NAME, hanging(), limit_bytes=LIMIT))
    await waiting.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert factory.everything(tmp_path) == {}


async def test_put_cancelled_at_any_moment_leaves_all_or_nothing(
    store: BlobStore, factory: BlobFactory, tmp_path: Path
) -> None:
    for steps in range(25):
        threads = ThreadPoolExecutor()
        asyncio.get_running_loop().set_default_executor(threads)
        putting = asyncio.create_task(store.put(NAME, chunks_of(b"x" * 70_000, b"y"), limit_bytes=LIMIT))
        for _ in range(steps):
            await asyncio.sleep(0)
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        threads.shutdown(wait=True)  # what a thread was doing, it does to its end
        assert factory.everything(tmp_path) in ({}, {NAME: 70_001})
        await store.delete(NAME)


async def test_puts_of_one_name_at_once_leave_one_of_them_whole(
    store: BlobStore, factory: BlobFactory, tmp_path: Path
) -> None:
    contents = [bytes([65 + number]) * 70_000 for number in range(8)]
    await asyncio.gather(
        *(store.put(NAME, chunks_of(content[:100], content[100:]), limit_bytes=LIMIT) for content in contents)
    )
    assert await store.read(NAME) in contents
    assert factory.everything(tmp_path) == {NAME: 70_000}


# -- names ---------------------------------------------------------------------------------------------
BAD_NAMES = [
    "",
    "j1",
    "payload",
    "payload/",
    "/payload/j1",
    "payload/../result/j1",
    "payload/..",
    "payload/.",
    "payload/j1/x",
    "payload//j1",
    "payload/j 1",
    "payload/j1\n",
    "payload/j1\0",
    "payload/ü",
    "payload/" + "j" * 81,
    "Payload/j1",
    "other/j1",
    "tmp/j1",
    "../payload/j1",
    "~/j1",
]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_bad_name_is_refused_everywhere(
    store: BlobStore, factory: BlobFactory, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match="not a blob name"):
        await store.put(name, chunks_of(b"abc"), limit_bytes=LIMIT)
    with pytest.raises(ValueError, match="not a blob name"):
        await store.size(name)
    with pytest.raises(ValueError, match="not a blob name"):
        await store.read(name)
    with pytest.raises(ValueError, match="not a blob name"):
        await store.delete(name)
    with pytest.raises(ValueError, match="not a blob name"):
        await store.rename(name, NAME)
    with pytest.raises(ValueError, match="not a blob name"):
        await store.rename(NAME, name)
    assert factory.everything(tmp_path) == {}


@given(name=st.text(st.sampled_from("payloadresult/.._-\\\0 j1~*"), max_size=20) | st.text(max_size=20))
def test_no_name_leaves_the_store(
    factory: BlobFactory, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def put() -> None:
        root = tmp_path_factory.mktemp("root")
        store = factory.open(root / "store")
        try:
            await store.put(name, chunks_of(b"abc"), limit_bytes=LIMIT)
        except ValueError:
            assert factory.everything(root) == {}
        else:
            assert factory.everything(root) == {f"store/{name}": 3}

    asyncio.run(put())
