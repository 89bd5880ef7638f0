"""Connections of downloads: kept, encrypted, by way of a proxy, and broken."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from edif.client.lines import LineBroke, Lines
from tests.support.certificates import Certificate, authority, signed_by

CONTENT = bytes(range(256)) * 4096


class Server(BaseHTTPRequestHandler):
    """Answers with the range that was asked for, and keeps its connections."""

    protocol_version = "HTTP/1.1"
    ways: list[str]
    connections: list[int]
    asked: list[str]

    def setup(self) -> None:
        super().setup()
        self.connections.append(self.client_address[1])

    def do_GET(self) -> None:
        self.asked.append(self.path)
        start, end = (int(each) for each in self.headers["range"].removeprefix("bytes=").split("-"))
        body = CONTENT[start : end + 1]
        way = self.ways.pop(0) if self.ways else "well"
        self.send_response(206)
        if way == "chunks":
            self.send_header("transfer-encoding", "chunked")
            body = b"".join(
                b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:10], body[10:]) if part
            ) + (b"0\r\n\r\n")
        elif way != "until it closes":
            self.send_header("content-length", str(len(body)))
        if way in ("until it closes", "and closes"):
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body[:100] if way == "broken" else body)
        self.close_connection = way in ("broken", "until it closes", "and closes", "silently")

    def log_message(self, *_: object) -> None:
        pass


class Running:
    def __init__(self, url: str, handler: type[Server]) -> None:
        self.url = url
        self.connections, self.asked = handler.connections, handler.asked


@contextmanager
def serving(*ways: str, certificate: Certificate | None = None) -> Iterator[Running]:
    handler = type("Some", (Server,), {"ways": list(ways), "connections": [], "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        scheme = "http"
        if certificate is not None:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Running(f"{scheme}://127.0.0.1:{server.server_port}/a%20blob?signature=%2B", handler)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def lines() -> Iterator[Lines]:
    tls = httpx.create_ssl_context()
    with httpx.Client(verify=tls, timeout=10) as http:
        lines = Lines(http, tls)
        yield lines
        lines.close()


def fetched(lines: Lines, link: str, start: int = 0, end: int = len(CONTENT)) -> bytes:
    got = bytearray(end - start)
    at = 0
    with lines.part(link, start, end) as answer:
        assert answer.status == 206
        assert answer.header("no-such") == ""
        while size := answer.read_into(memoryview(got)[at:]):
            at += size
    return bytes(got[:at])


def test_connections_are_kept(lines: Lines) -> None:
    with serving() as server:
        for start in (0, 7, 100_000):
            assert fetched(lines, server.url, start) == CONTENT[start:]
        assert len(server.connections) == 1
        assert set(server.asked) == {"/a%20blob?signature=%2B"}


@pytest.mark.parametrize("way", ["chunks", "until it closes", "and closes"])
def test_answers_of_every_form_are_read(lines: Lines, way: str) -> None:
    with serving(way) as server:
        assert fetched(lines, server.url) == CONTENT
        assert fetched(lines, server.url, 5, 10) == CONTENT[5:10]


def test_a_connection_that_has_ended_meanwhile_is_replaced(lines: Lines) -> None:
    with serving("silently") as server:
        assert fetched(lines, server.url) == CONTENT
        ((kept,),) = lines._idle.values()
        assert kept.sock.recv(1, socket.MSG_PEEK) == b"", "it has ended"
        assert fetched(lines, server.url) == CONTENT
        assert len(server.connections) == 2


def test_a_connection_that_was_not_read_to_its_end_is_not_used_again(lines: Lines) -> None:
    with serving() as server:
        with lines.part(server.url, 0, len(CONTENT)) as answer:
            answer.read_into(memoryview(bytearray(10)))
        assert fetched(lines, server.url) == CONTENT
        assert len(server.connections) == 2


def test_a_line_that_breaks_is_told(lines: Lines) -> None:
    with serving("broken") as server:
        assert fetched(lines, server.url) == CONTENT[:100], "as far as it came"
    with pytest.raises(LineBroke, match="refused"), lines.part(server.url, 0, 10):
        pass


@pytest.mark.parametrize("trusted", [True, False])
def test_https_is_verified(tmp_path: Path, trusted: bool) -> None:
    ca = authority(tmp_path)
    tls = ssl.create_default_context(cafile=ca.certificate if trusted else None)
    with (
        serving(certificate=signed_by(ca, tmp_path, "server", "IP:127.0.0.1")) as server,
        httpx.Client() as http,
    ):
        lines = Lines(http, tls)
        if trusted:
            assert [fetched(lines, server.url) for _ in range(2)] == [CONTENT] * 2
            assert len(server.connections) == 1
        else:
            with pytest.raises(LineBroke, match="CERTIFICATE_VERIFY_FAILED"):
                fetched(lines, server.url)
        lines.close()


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as proxy:
        monkeypatch.setenv("http_proxy", f"http://{urlsplit(proxy.url).netloc}")
        with httpx.Client() as http:
            lines = Lines(http, httpx.create_ssl_context())
            assert fetched(lines, "http://fabric.test/blob", 10) == CONTENT[10:]
            assert proxy.asked == ["http://fabric.test/blob"]
            with serving() as server:
                monkeypatch.setenv("no_proxy", "127.0.0.1")
                assert fetched(lines, server.url) == CONTENT
            assert len(proxy.asked) == 1
            lines.close()
