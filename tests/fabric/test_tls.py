"""A fabric that speaks TLS: its own parts find each other, the stock client and other machines verify it."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edif.core import errors
from tests.support.certificates import Certificate, authority, self_signed, signed_by
from tests.support.commands import run_forked
from tests.support.fabric import EDIF, PATIENCE_S, Fabric, clean_environment, start_fabric
from tests.support.models import GPT2_ID
from tests.support.replay import Replayer

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello.py"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    """A private authority, and the gateway's certificate from it."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = authority(folder)
    return {"authority": ca, "gateway": signed_by(ca, folder, "gateway", "IP:127.0.0.1,DNS:localhost")}


@pytest.fixture(scope="module")
def fabric(
    certificates: dict[str, Certificate], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fabric]:
    running = start_fabric(tmp_path_factory.mktemp("tls") / "data", "--demo", *certificates["gateway"].flags)
    running.authorities = certificates["authority"].certificate
    yield running
    assert running.stop() == 0


async def test_requests_sockets_and_links_are_encrypted(
    fabric: Fabric, certificates: dict[str, Certificate], blobs: Path
) -> None:
    assert fabric.url.startswith("https://127.0.0.1:")
    authorities = certificates["authority"].certificate
    async with Replayer(fabric.url, blobs, "edif/demo", authorities=authorities) as client:
        outcome = await client.run("hello")
        assert outcome.status == "COMPLETED"
        frame = (await client.get(f"/response/{outcome.id}")).json()
        assert frame["data"].startswith(fabric.url)
        assert await client.fetch(frame) == outcome.result
    plain = httpx.Client(base_url=fabric.url.replace("https", "http"))
    with plain, pytest.raises(httpx.HTTPError):
        plain.get("/ping")


@pytest.mark.slow
@pytest.mark.parametrize("first_line", ["", "import edif; edif.connect()"], ids=["stock", "connected"])
def test_clients_work_with_a_private_authority(
    fabric: Fabric, certificates: dict[str, Certificate], first_line: str, tmp_path: Path
) -> None:
    fabric.wait_running("edif/demo")
    (tmp_path / "hello.py").write_text(f"{first_line}\n{EXAMPLE.read_text()}")
    done = _client(fabric, tmp_path, SSL_CERT_FILE=str(certificates["authority"].certificate))
    assert done.returncode == 0, done.stderr
    assert "Mary" in done.stdout


def test_who_does_not_trust_the_authority_is_told_how_to(fabric: Fabric, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("import edif; edif.connect()")
    done = _client(fabric, tmp_path)
    assert f"No fabric answers at {fabric.url}" in done.stderr
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
    assert "set SSL_CERT_FILE" in done.stderr


def _client(fabric: Fabric, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    variables |= {"NDIF_HOST": fabric.url, "HF_ENDPOINT": f"{fabric.url}/hub", "HF_HOME": str(folder / "hf")}
    return subprocess.run(
        [sys.executable, "hello.py"],
        cwd=folder,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line_trusts_its_own_gateway_and_elsewhere_what_tls_ca_says(
    fabric: Fabric, certificates: dict[str, Certificate], tmp_path: Path
) -> None:
    assert fabric.edif("status")["url"] == fabric.url

    def from_elsewhere(**environment: str) -> subprocess.CompletedProcess[str]:
        words = ["status", "--url", fabric.url, "--data", str(tmp_path)]
        return run_forked(words, clean_environment(**environment))

    refused = from_elsewhere()
    assert refused.returncode == 1
    assert errors.GATEWAY_UNREACHABLE.code in refused.stderr
    assert from_elsewhere(EDIF_TLS_CA=str(certificates["authority"].certificate)).returncode == 0


async def test_an_agent_elsewhere_joins_over_tls(
    fabric: Fabric, certificates: dict[str, Certificate], tmp_path: Path
) -> None:
    with (tmp_path / "agent.log").open("wb") as log:
        agent = subprocess.Popen(
            [EDIF, "agent", "--gateway", fabric.url, "--data", str(tmp_path / "a")],
            env=clean_environment(
                EDIF_WORKER_TOKEN=(fabric.data / "worker.token").read_text(),
                EDIF_TLS_CA=str(certificates["authority"].certificate),
            ),
            stderr=log,
        )
    try:
        for _ in range(200):
            if fabric.edif("status")["agents"] == 2:
                break
            await asyncio.sleep(0.1)
        assert fabric.edif("status")["agents"] == 2, (tmp_path / "agent.log").read_text()
    finally:
        agent.terminate()
        agent.wait(timeout=PATIENCE_S)


async def test_a_self_signed_certificate_of_another_name_serves_this_machine(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    """Agent and command line trust it because it is the configured one; the certificate is renewed meanwhile."""
    made = self_signed(tmp_path, "lab.example")
    fabric = start_fabric(tmp_path / "data", "--model", f"{GPT2_ID}={models[GPT2_ID]}", *made.flags)
    try:
        async with Replayer(fabric.url, blobs) as client:
            with pytest.raises(httpx.ConnectError, match="self-signed"):
                await client.get("/ping")
        (tmp_path / "new").mkdir()
        renewed = self_signed(tmp_path / "new", "lab.example")
        renewed.key.rename(made.key)
        renewed.certificate.rename(made.certificate)
        for _ in range(200):
            if (status := fabric.edif("status"))["agents"] == 1 and status["models"][0]["state"] == "RUNNING":
                break
            await asyncio.sleep(0.1)
        assert status["models"][0]["state"] == "RUNNING", fabric.log("agent")
        async with Replayer(fabric.url, blobs, authorities=made.certificate) as client:
            with pytest.raises(httpx.ConnectError, match="mismatch"):
                await client.get("/ping")
    finally:
        assert fabric.stop() == 0


def test_files_that_do_not_fit_are_told_before_anything_starts(tmp_path: Path) -> None:
    one, two = self_signed(tmp_path, "one.example"), self_signed(tmp_path, "two.example")
    mixed = Certificate(one.certificate, two.key)
    for command in ("gateway", "serve"):
        words = [command, "--demo", "--port", "0", "--data", str(tmp_path / command), *mixed.flags]
        done = run_forked(words, clean_environment())
        assert done.returncode == 1
        assert done.stderr.strip().endswith(f"[{errors.TLS_INVALID.code}]")
