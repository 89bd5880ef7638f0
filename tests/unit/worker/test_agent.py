"""What the agent survives."""

from pathlib import Path

import pytest

from edif.wire.link import ModelSpec
from edif.worker import agent as agent_module
from edif.worker.agent import Agent, AgentConfig, GatewayAddress


class _OfAnotherLibrary(Exception):
    """As the Hub's library raises when its host is not there: neither httpx's nor the system's."""


async def test_metadata_that_cannot_be_had_is_tried_again_and_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    failures = [_OfAnotherLibrary("no host"), ValueError("not an id"), OSError("no file")]

    def sources(_: ModelSpec) -> list[tuple[str, Path]]:
        if failures:
            raise failures.pop(0)
        return [("org/name", tmp_path)]

    async def send(_: object, repo: str, __: Path) -> None:
        sent.append(repo)

    monkeypatch.setattr(agent_module, "sources", sources)
    monkeypatch.setattr(agent_module, "send_metadata", send)
    monkeypatch.setattr(agent_module, "_RETRY_S", (0.0, 0.0, 0.0, 0.0))
    agent = Agent(
        AgentConfig("a1", (GatewayAddress("http://127.0.0.1:9"),), "token", tmp_path / "spool", None, {}, 0.0)
    )
    await agent._send_metadata(ModelSpec("org/name"))
    assert sent == ["org/name"]
    failures.extend([_OfAnotherLibrary("never")] * 9)
    await agent._send_metadata(ModelSpec("org/name"))
    assert sent == ["org/name"], "given up, and nothing raised"
    await agent._http.aclose()
    await agent._links.aclose()
