"""Downloads from servers that do not do what they should."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from edif.client.download import FIRST_BYTES, PIECE_BYTES, Download
from edif.client.lines import Lines
from edif.core import errors
from edif.core.errors import EdifError, ErrorCode
from edif.core.limits import MIB

TLS = httpx.create_ssl_context()
CONTENT = bytes(range(256)) * ((FIRST_BYTES + 2 * PIECE_BYTES) // 256 + 1)


class Server(BaseHTTPRequestHandler):
    """Answers ranges of the content, after the first answers that ``faults`` make."""

    faults: list[Callable[["Server"], None]]

    def do_GET(self) -> None:
        if self.faults:
            self.faults.pop(0)(self)
        else:
            self.part()

    def part(self, shorter_by: int = 0) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["range"])
        assert match is not None
        start, end = int(match[1]), int(match[2]) + 1
        self.send_response(206)
        self.send_header("content-range", f"bytes {start}-{end - 1}/{len(CONTENT)}")
        self.send_header("content-length", str(end - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : end - shorter_by])
        self.close_connection = True

    def refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def all_of_it(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(CONTENT)))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(CONTENT)

    def finish(self) -> None:
        with suppress(ConnectionError):  # its client has read enough
            super().finish()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(*faults: Callable[[Server], None]) -> Iterator[str]:
    handler = type("Faulty", (Server,), {"faults": list(faults)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def download(url: str, renew: Callable[[], str] = str) -> Iterator[Download]:
    with httpx.Client(trust_env=False) as http:
        lines = Lines(http, TLS)
        yield Download(lines, url, len(CONTENT), renew, say=lambda _: None, progress=lambda _: None)
        lines.close()


def fetch(url: str, renewed: list[str]) -> bytes:
    def renew() -> str:
        renewed.append(f"{url}/{len(renewed) + 1}")
        return renewed[-1]

    with download(url, renew) as it:
        first = bytes(it.first())
        return first + b"".join(it.rest(lambda _, size: memoryview(bytearray(size))))


def test_only_what_is_on_its_way_takes_time() -> None:
    with serving() as url, httpx.Client(trust_env=False) as http:
        lines = Lines(http, TLS)
        download = Download(
            lines, url, len(CONTENT), lambda: url, say=lambda _: None, progress=lambda _: None
        )
        assert download.taken_s == 0
        download.first()
        taken = download.taken_s
        assert taken > 0
        assert download.taken_s == taken, "nothing is asked for"
        pieces = list(download.rest(lambda _, size: memoryview(bytearray(size))))
        assert download.taken_s > taken
        assert sum(map(len, pieces)) == len(CONTENT) - FIRST_BYTES


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [lambda server: server.part(shorter_by=1000)] * 3,
        [lambda server: server.refuse(503), lambda server: server.refuse(429)],
        [lambda server: server.part(), lambda server: server.refuse(500)],
    ],
    ids=["well", "cut short", "busy", "later"],
)
def test_a_server_that_recovers_is_asked_again(faults: list[Callable[[Server], None]]) -> None:
    with serving(*faults) as url:
        assert fetch(url, []) == CONTENT


def test_a_refused_link_is_renewed_once_for_each_refusal() -> None:
    renewed: list[str] = []
    with serving(lambda server: server.refuse(403)) as url:
        assert fetch(url, renewed) == CONTENT
    assert len(renewed) == 1


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("later", [False, True])
def test_a_link_that_leads_to_nothing_any_more_is_renewed(status: int, later: bool) -> None:
    """Links were revoked; a bucket says no more of it than that there is nothing."""
    renewed: list[str] = []
    with serving(*([Server.part] if later else []), lambda server: server.refuse(status)) as url:
        assert fetch(url, renewed) == CONTENT
    assert len(renewed) == 1


def test_links_that_are_revoked_again_and_again_while_something_comes_are_renewed_each_time() -> None:
    renewed: list[str] = []
    faults: list[Callable[[Server], None]] = []
    for missing in (3000, 2000, 1000):
        faults += [partial(Server.part, shorter_by=missing), lambda server: server.refuse(404)]
    with serving(*faults) as url:
        assert fetch(url, renewed) == CONTENT
    assert len(renewed) == 3


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("later", [False, True])
def test_a_fresh_link_that_leads_to_nothing_is_the_end(status: int, later: bool) -> None:
    renewed: list[str] = []
    nothing = [lambda server: server.refuse(status)] * 100
    with serving(*([Server.part] if later else []), *nothing) as url, pytest.raises(EdifError) as caught:
        fetch(url, renewed)
    assert caught.value.kind is errors.RESULT_GONE
    assert len(renewed) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (lambda server: server.all_of_it(), errors.RESULT_DAMAGED),
        (lambda server: server.refuse(416), errors.RESULT_DAMAGED),
    ],
    ids=["no ranges", "another size"],
)
@pytest.mark.parametrize("later", [False, True])
def test_what_will_not_get_better_is_told(
    fault: Callable[[Server], None], kind: ErrorCode, later: bool
) -> None:
    with serving(*([Server.part] if later else []), fault) as url, pytest.raises(EdifError) as caught:
        fetch(url, [])
    assert caught.value.kind is kind


RANGES = [
    (30 * MIB, 3 * MIB),
    (7, 1),
    (0, 5),
    (8, 20),  # next to another
    (2000, 1000),  # and near
    (2500, 1000),  # over another
    (MIB, 0),
    (2 * MIB, 20 * MIB),  # larger than a piece
    (len(CONTENT) - 1, 1),
]


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [lambda server: server.part(shorter_by=3)] * 6,
        [lambda server: server.refuse(503), lambda server: server.part(), lambda server: server.refuse(503)],
    ],
    ids=["well", "cut short", "busy"],
)
def test_any_ranges_are_had_at_once(faults: list[Callable[[Server], None]]) -> None:
    parts = [(start, memoryview(bytearray(size))) for start, size in RANGES]
    with serving(*faults) as url, download(url) as it:
        it.ranges(parts)
        it.ranges(parts[:1])
        it.ranges([])
    for start, view in parts:
        assert view == CONTENT[start : start + len(view)]


def test_ranges_that_are_near_are_one_request() -> None:
    asked: list[str] = []

    def note(server: Server) -> None:
        asked.append(server.headers["range"])
        server.part()

    parts = [(start, memoryview(bytearray(10))) for start in range(0, 100_000, 1000)]
    with serving(*[note] * 100) as url, download(url) as it:
        it.ranges(parts)
    assert asked == ["bytes=0-99009"]
    assert all(view == CONTENT[start : start + 10] for start, view in parts)


def test_ranges_that_cannot_be_had_are_told() -> None:
    parts = [(0, memoryview(bytearray(20 * MIB)))]
    with serving(lambda server: server.refuse(416)) as url, download(url) as it:
        with pytest.raises(EdifError) as caught:
            it.ranges(parts)
        assert caught.value.kind is errors.RESULT_DAMAGED
        it.ranges(parts)
    assert parts[0][1] == CONTENT[: 20 * MIB]
