"""Bad neighbours, over real sockets against a real gateway with short limits: each is cut, and a good client from
another address is served all the while.
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import connect

from edif.blobs.links import LinkSigner
from edif.core import errors
from edif.core.errors import ErrorCode
from tests.support.fabric import EDIF, clean_environment

PER_ADDRESS = 24
PATIENCE_S = 60.0  # far above every limit here; only a failure takes it


@dataclass(frozen=True)
class Gateway:
    data: Path
    url: str

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway without agents; this machine's tests are many addresses: 127.0.0.1, 127.0.0.2 and so on."""
    data = tmp_path_factory.mktemp("neighbours") / "data"
    log = data.with_name("log")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [EDIF, "gateway", "--demo", "--port", "0", "--data", str(data)],
            env=clean_environment(
                EDIF_LOG_JSON="true",
                EDIF_HEADER_TIMEOUT_S="1",
                EDIF_STALL_TIMEOUT_S="2",
                EDIF_BODY_BYTES_PER_S="1000",
                EDIF_MAX_CONNECTIONS_PER_ADDRESS=str(PER_ADDRESS),
                EDIF_STATUS_PER_S="1",
            ),
            stderr=stderr,
        )
    facts = data / "run" / "gateway.json"
    while not facts.exists():
        assert process.poll() is None
        time.sleep(0.05)
    yield Gateway(data, json.loads(facts.read_text())["url"])
    process.terminate()
    assert process.wait(timeout=30) in (0, -15)
    assert "Traceback" not in log.read_text()


@pytest.fixture(autouse=True)
async def good_client(gateway: Gateway) -> AsyncIterator[None]:
    """Asks all the while, on old connections and new ones, and is always answered."""
    answers: list[int] = []

    async def ask() -> None:
        while True:
            transport = httpx.AsyncHTTPTransport(local_address="127.0.0.99")
            async with httpx.AsyncClient(
                base_url=gateway.url, transport=transport, timeout=PATIENCE_S
            ) as http:
                for _ in range(3):
                    answers.append((await http.get("/edif/v1/models")).status_code)
                    await asyncio.sleep(0.05)

    task = asyncio.create_task(ask())
    yield
    while not answers:
        await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert set(answers) == {200}


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def refusal(self) -> tuple[int, ErrorCode]:
        """The one answer with which the gateway ends this connection."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            body = json.loads(await self.reader.read())
        assert b"connection: close" in head
        kind = errors.catalogue()[body["code"]]
        assert body["detail"].endswith(f"[{kind.code}]")
        assert int(head.split()[1]) == kind.http_status
        return kind.http_status, kind

    async def answer(self) -> tuple[int, bytes]:
        """The next answer's status and body, of a connection that goes on."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            body = await self.reader.readexactly(int(length.split(b":")[1]))
        assert b"connection: close" not in head
        return int(head.split()[1]), body

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass


@contextlib.asynccontextmanager
async def connection(gateway: Gateway, address: str = "127.0.0.1") -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, local_addr=(address, 0))
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """A byte now and then, so that the connection is never idle; until it is cut."""
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.1)


async def refused_while_dripping(bad: Connection, data: bytes) -> ErrorCode:
    dripping = asyncio.create_task(drip(bad.writer, data))
    try:
        return (await bad.refusal())[1]
    finally:
        dripping.cancel()
        await asyncio.wait([dripping])


# -- heads ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "begin",
    [b"", b"GET /ping HTTP/1.1\r\nhost: x\r\nx-slow: ", b"GET /", b"\r\n"],
    ids=["nothing", "in a header", "in the address", "empty lines"],
)
async def test_a_head_that_comes_slowly(gateway: Gateway, begin: bytes) -> None:
    async with connection(gateway) as bad:
        bad.writer.write(begin)
        assert await refused_while_dripping(bad, b"a" if b"G" in begin else begin) is errors.REQUEST_TIMEOUT


async def test_a_second_head_that_comes_slowly(gateway: Gateway) -> None:
    async with connection(gateway) as bad:
        bad.writer.write(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
        first = await bad.reader.readuntil(b'"pong"')
        assert first.startswith(b"HTTP/1.1 200")
        bad.writer.write(b"GET /ping HTTP/1.1\r\nx-slow: ")
        assert await refused_while_dripping(bad, b"a") is errors.REQUEST_TIMEOUT


async def test_an_idle_connection_is_closed(gateway: Gateway) -> None:
    async with connection(gateway) as bad:
        assert await bad.refusal() == (408, errors.REQUEST_TIMEOUT)
    async with connection(gateway) as kept:
        kept.writer.write(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
        await kept.ended()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"GET /ping HTTP/1.1\r\nx-large: " + b"a" * 9000 + b"\r\n\r\n", errors.HEADERS_TOO_LARGE),
        (b"GET /ping HTTP/1.1\r\nx-endless: " + b"a" * 300_000, errors.HEADERS_TOO_LARGE),
        (b"GET /ping HTTP/1.1\r\n" + b"x-a: 1\r\n" * 101 + b"\r\n", errors.HEADERS_TOO_LARGE),
        (b"GET /ping HTTP/1.1\r\n" + (b"x-a: " + b"a" * 1000 + b"\r\n") * 17, errors.HEADERS_TOO_LARGE),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", errors.URL_TOO_LONG),
        (b"GET /ping HTTP/1.1\r\nno header\r\n\r\n", errors.REQUEST_MALFORMED),
        (b"\x16\x03\x01 this is no HTTP\r\n\r\n", errors.REQUEST_MALFORMED),
        (
            b"GET /subscribe HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nx: " + b"a" * 8190 + b"\r\n\r\n",
            errors.HEADERS_TOO_LARGE,
        ),
    ],
    ids=["one header", "endless", "many headers", "all together", "address", "not a header", "tls", "socket"],
)
async def test_a_head_that_is_too_large_or_none(gateway: Gateway, head: bytes, kind: ErrorCode) -> None:
    async with connection(gateway) as bad:
        bad.writer.write(head)
        assert await bad.refusal() == (kind.http_status, kind)


PING = b"GET /ping HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
LOST = PING.replace(b"/ping", b"/nothing")
BAD_POST = (
    b"POST /request HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    b"content-length: 5\r\n\r\n--b--"
)


async def test_what_was_asked_before_a_bad_head_is_answered_first(gateway: Gateway) -> None:
    async with connection(gateway, "127.0.0.3") as bad:
        bad.writer.write(PING + BAD_POST + PING + b"nonsense\r\n\r\n")
        statuses = [(await bad.answer())[0] for _ in range(3)]
        assert statuses == [200, 422, 200]
        assert await bad.refusal() == (400, errors.REQUEST_MALFORMED)


async def test_a_late_body_behind_answers(gateway: Gateway) -> None:
    async with connection(gateway, "127.0.0.4") as bad:
        bad.writer.write(PING + POST + PART)
        assert (await bad.answer())[0] == 200
        assert await refused_while_dripping(bad, b"a") is errors.REQUEST_TIMEOUT


async def test_a_client_that_leaves_its_answers_behind(gateway: Gateway) -> None:
    """Answers are held back after the first fifty; that nobody is there any more when one is due is no fault of ours."""
    async with connection(gateway, "127.0.0.5") as bad:
        bad.writer.write(LOST * 60)
        for _ in range(50):
            assert (await bad.answer())[0] == 404
    async with connection(gateway, "127.0.0.5") as other:
        other.writer.write(LOST)
        assert (await other.answer())[0] == 404


# -- bodies --------------------------------------------------------------------------------------------
POST = (
    b"POST /request HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    b"content-length: 1000000\r\n\r\n"
)
PART = b"--b\r\ncontent-disposition: form-data; name=blob; filename=x\r\n\r\n"


async def test_a_body_that_comes_slowly(gateway: Gateway) -> None:
    async with connection(gateway) as bad:
        bad.writer.write(POST + PART)
        assert await refused_while_dripping(bad, b"a") is errors.REQUEST_TIMEOUT


async def test_a_body_that_goes_on_after_its_answer(gateway: Gateway) -> None:
    async with connection(gateway) as bad:
        bad.writer.write(POST.replace(b"/request", b"/nothing"))
        dripping = asyncio.create_task(drip(bad.writer, b"a" * 10_000))
        assert (await bad.reader.readline()).startswith(b"HTTP/1.1 404")
        await bad.ended()
        async with asyncio.timeout(PATIENCE_S):
            await dripping


async def test_a_body_that_keeps_its_rate_may_take_its_time(gateway: Gateway) -> None:
    """Longer than each limit, as a laptop on a poor line does."""

    async def body(begin: bytes) -> AsyncIterator[bytes]:
        yield begin
        for _ in range(12):
            yield b"a" * 2000
            await asyncio.sleep(0.5)

    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as http:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        for begin, kind in ((PART, errors.ENVELOPE_INVALID), (b"no boundary", errors.BODY_TRUNCATED)):
            # The second is answered at its first bytes, and the client reads that after its last.
            answer = await http.post("/request", content=body(begin), headers=headers)
            assert answer.json()["code"] == kind.code


# -- readers -------------------------------------------------------------------------------------------
async def test_a_download_that_nobody_reads_is_cut_and_resumed(gateway: Gateway) -> None:
    size = 32 * 2**20
    (gateway.data / "blobs" / "result").mkdir(exist_ok=True)
    (gateway.data / "blobs" / "result" / "jdownload-1").write_bytes(bytes(size))
    signer = LinkSigner((gateway.data / "link.key").read_text().encode())
    link = gateway.url + signer.path("get", "result/jdownload-1", time.time() + 600)
    address = urlsplit(link)
    with socket.socket() as bad:
        bad.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        bad.connect(("127.0.0.1", gateway.port))
        bad.sendall(f"GET {address.path}?{address.query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await cut(gateway, bad)
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        rest = await http.get(link, headers={"range": f"bytes={size - 1000}-"})
    assert (rest.status_code, len(rest.content)) == (206, 1000)


async def cut(gateway: Gateway, bad: socket.socket) -> None:
    """Wait, without reading, until the gateway's machine no longer holds its end of the connection."""
    ends = f":{gateway.port:04X} 0100007F:{bad.getsockname()[1]:04X} "
    assert ends in Path("/proc/net/tcp").read_text()
    async with asyncio.timeout(PATIENCE_S):
        while ends in Path("/proc/net/tcp").read_text():
            await asyncio.sleep(0.1)


# -- connections ---------------------------------------------------------------------------------------
async def test_more_connections_than_one_address_may_have(gateway: Gateway) -> None:
    url = gateway.url.replace("http", "ws") + "/ws/socket.io/"  # open to all, and it may stay idle
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(PER_ADDRESS):
            await stack.enter_async_context(connect(url, local_addr=("127.0.0.5", 0), proxy=None))
        async with connection(gateway, "127.0.0.5") as bad:
            assert await bad.refusal() == (503, errors.CONNECTIONS_FULL)
        async with connection(gateway, "127.0.0.6") as other:
            other.writer.write(b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert (await other.reader.readline()).startswith(b"HTTP/1.1 200")
    async with asyncio.timeout(PATIENCE_S):
        while True:  # they leave, and the address is let in again
            async with connection(gateway, "127.0.0.5") as again:
                again.writer.write(b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                if (await again.reader.readline()).startswith(b"HTTP/1.1 200"):
                    break


# -- rates ---------------------------------------------------------------------------------------------
async def test_a_flood_is_told_when_to_come_back(gateway: Gateway) -> None:
    async with httpx.AsyncClient(
        base_url=gateway.url, transport=httpx.AsyncHTTPTransport(local_address="127.0.0.7")
    ) as http:
        answers = [await http.get("/status") for _ in range(40)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.status_code for answer in answers} == {200, 429}
    assert int(refused[0].headers["retry-after"]) == 1
    assert "127.0.0.7" in refused[0].json()["detail"]


async def test_refusals_come_at_a_bounded_rate(gateway: Gateway) -> None:
    """Ten a second after the first fifty: the default. Requests that are refused unread count with the others."""
    began = time.monotonic()
    async with httpx.AsyncClient(
        base_url=gateway.url, transport=httpx.AsyncHTTPTransport(local_address="127.0.0.9")
    ) as http:
        for _ in range(55):
            assert (await http.get("/nothing")).status_code == 404
        assert time.monotonic() - began >= 0.5
        began = time.monotonic()
        for _ in range(5):
            async with connection(gateway, "127.0.0.9") as bad:
                bad.writer.write(b"GET /" + b"a" * 9000)
                assert (await bad.refusal())[1] is errors.URL_TOO_LONG
        assert time.monotonic() - began >= 0.3
        assert (await http.get("/ping")).status_code == 200


# -- what the operator sees ----------------------------------------------------------------------------
async def test_refusals_and_connections_are_counted(gateway: Gateway) -> None:
    async with connection(gateway) as bad:
        bad.writer.write(b"GET /" + b"a" * 9000)
        assert (await bad.refusal())[1] is errors.URL_TOO_LONG
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        lines = (await http.get("/edif/v1/metrics")).text.splitlines()
    counted = dict(line.rsplit(" ", 1) for line in lines if line.startswith("edif_"))
    assert float(counted['edif_refused_total{code="url_too_long"}']) >= 1
    assert 1 <= float(counted["edif_connections"]) <= 3 * PER_ADDRESS
