"""Which certificates are shown and trusted; the other end of each connection is a real one."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from edif.core import errors
from edif.core.errors import SetupError
from edif.launch.data_folder import DataFolder
from edif.launch.renewal import FollowingContext
from edif.launch.tls import client_context, server_context, server_files
from edif.settings import Settings
from tests.support.certificates import Certificate, authority, self_signed, signed_by
from tests.unit.helpers import refusal_of


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A server that says hello; yields its port."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def met(port: int, trust: ssl.SSLContext | None) -> str:
    """What a client meets that trusts so: the greeting, or why the server is not believed."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    try:
        return (await reader.read()).decode()
    finally:
        writer.close()


def settings(folder: Path, **values: object) -> Settings:
    return Settings(data=folder, **values)  # type: ignore[arg-type]


def refused(certificate: Path, key: Path) -> bool:
    return refusal_of(lambda: server_context(certificate, key), error=SetupError) is errors.TLS_INVALID


def test_files_that_do_not_fit_are_named_and_nobody_is_asked_for_a_password(tmp_path: Path) -> None:
    good, other = self_signed(tmp_path, "one.example"), self_signed(tmp_path, "two.example")
    locked = self_signed(tmp_path, "locked.example", password="secret")
    text = tmp_path / "text"
    text.write_text("no certificate")
    damaged = tmp_path / "damaged"
    damaged.write_text(good.certificate.read_text().replace("MII", "MIJ", 1))
    assert not refused(good.certificate, good.key)
    assert refused(good.certificate, other.key)
    assert refused(good.certificate, good.certificate)
    assert refused(good.certificate, tmp_path / "none")
    assert refused(tmp_path / "none", good.key)
    assert refused(tmp_path, good.key)
    assert refused(text, good.key)
    assert refused(damaged, good.key)
    assert refused(locked.certificate, locked.key)
    with pytest.raises(SetupError) as error:
        server_context(good.certificate, other.key)
    assert str(other.key) in error.value.detail
    assert "--tls-key" in error.value.detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    good = self_signed(tmp_path, "one.example")
    good.key.chmod(0)
    assert refused(good.certificate, good.key)


def test_one_of_the_two_files_is_not_enough(tmp_path: Path) -> None:
    assert server_files(settings(tmp_path)) == ()
    for name in ("tls_cert", "tls_key"):
        only = settings(tmp_path, **{name: tmp_path / "file"})
        assert refusal_of(lambda only=only: server_files(only)) is errors.TLS_INVALID  # type: ignore[misc]


def own(tmp_path: Path, made: Certificate, port: int = 1) -> ssl.SSLContext | None:
    return client_context(
        settings(tmp_path, tls_cert=made.certificate), DataFolder(tmp_path), f"https://127.0.0.1:{port}"
    )


async def test_this_machine_trusts_exactly_the_configured_certificate(tmp_path: Path) -> None:
    """Its name need not fit; another certificate of the same name is refused."""
    ours = self_signed(tmp_path, "lab.example")
    (tmp_path / "else").mkdir()
    theirs = self_signed(tmp_path / "else", "lab.example")
    for shown, expected in ((ours, "hello"), (theirs, "self-signed certificate")):
        async with listening(server_context(shown.certificate, shown.key)) as port:
            assert await met(port, own(tmp_path, ours)) == expected


async def test_the_authority_behind_the_configured_certificate_is_not_trusted_with_it(tmp_path: Path) -> None:
    """Of a file with a chain only the first certificate counts: whatever else the authority signed is refused."""
    ca = authority(tmp_path)
    ours = signed_by(ca, tmp_path, "ours", "DNS:lab.example")
    other = signed_by(ca, tmp_path, "other", "IP:127.0.0.1")
    async with listening(server_context(ours.certificate, ours.key)) as port:
        assert await met(port, own(tmp_path, ours)) == "hello"
    async with listening(server_context(other.certificate, other.key)) as port:
        assert await met(port, own(tmp_path, ours)) != "hello"


async def test_other_machines_verify_the_chain_and_the_name(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    remote = settings(tmp_path, tls_ca=ca.certificate)
    trust = client_context(remote, DataFolder(tmp_path), "https://lab.example")
    fitting = signed_by(ca, tmp_path, "fitting", "IP:127.0.0.1")
    async with listening(server_context(fitting.certificate, fitting.key)) as port:
        assert await met(port, trust) == "hello"
        system = client_context(settings(tmp_path), DataFolder(tmp_path), "https://lab.example")
        assert await met(port, system) == "self-signed certificate in certificate chain"
    elsewhere = signed_by(ca, tmp_path, "elsewhere", "DNS:lab.example")
    async with listening(server_context(elsewhere.certificate, elsewhere.key)) as port:
        assert "IP address mismatch" in await met(port, trust)


def test_plain_http_needs_no_trust(tmp_path: Path) -> None:
    assert client_context(settings(tmp_path), DataFolder(tmp_path), "http://127.0.0.1:1") is None


async def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    ours = self_signed(tmp_path, "lab.example")
    context = server_context(ours.certificate, ours.key)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_renewed_certificate_is_shown_and_trusted_without_a_restart(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_renew(tmp_path))


async def _renew(tmp_path: Path) -> None:
    ours = self_signed(tmp_path, "lab.example")
    files = (ours.certificate, ours.key)
    shown = FollowingContext.of(files, lambda: server_context(*files))

    def trust() -> ssl.SSLContext:
        context = own(tmp_path, ours)
        assert context is not None
        return context

    trusted = FollowingContext.of((ours.certificate,), trust)
    async with listening(shown) as port:
        first = trust()
        assert await met(port, trusted) == "hello"
        (tmp_path / "new").mkdir()
        renewed = self_signed(tmp_path / "new", "lab.example")
        renewed.key.rename(ours.key)
        assert await met(port, trusted) == "hello"  # the key alone fits nothing: the old pair goes on
        renewed.certificate.rename(ours.certificate)
        assert await met(port, trusted) == "hello"
        assert await met(port, first) == "self-signed certificate"
