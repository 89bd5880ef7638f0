"""A client that is closed while other threads use it."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from edif.client.shared_http import SharedHttp
from edif.core import errors
from edif.core.errors import EdifError

BODY = b"the answer"
WAIT_S = 20.0


class SlowServer:
    """Answers when it is told to, and notes that its connection ended."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.asked, self.may_answer, self.left = threading.Event(), threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._server, self._server.accept()[0] as client:
            assert client.recv(65536)
            self.asked.set()
            self.may_answer.wait(WAIT_S)
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY))
            assert client.recv(1) == b""
            self.left.set()


@pytest.fixture
def server() -> Iterator[SlowServer]:
    slow = SlowServer()
    yield slow
    slow.may_answer.set()


def _streamed(http: httpx.Client, url: str) -> bytes:
    with http.stream("GET", url) as answer:
        return answer.read()


def _asked(http: httpx.Client, url: str) -> bytes:
    return http.request("GET", url).content


@pytest.mark.parametrize("ask", [_asked, _streamed])
def test_a_request_under_way_has_its_answer_and_then_the_connection_ends(
    server: SlowServer, ask: object
) -> None:
    assert callable(ask)
    http = SharedHttp(server.url, timeout=WAIT_S)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, http, server.url)
        assert server.asked.wait(WAIT_S)
        http.close()
        for again in (_asked, _streamed):
            with pytest.raises(EdifError, match="was closed") as refused:
                again(http, server.url)
            assert refused.value.kind is errors.NOT_CONNECTED
        assert not server.left.is_set()
        server.may_answer.set()
        assert answer.result(WAIT_S) == BODY
    assert server.left.wait(WAIT_S)


def test_one_that_nobody_uses_is_closed_at_once(server: SlowServer) -> None:
    server.may_answer.set()
    http = SharedHttp(server.url, timeout=WAIT_S)
    assert _asked(http, server.url) == BODY
    assert not server.left.is_set()
    http.close()
    assert server.left.wait(WAIT_S)
