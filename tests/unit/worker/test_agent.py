"""What the agent survives."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from edif.core.job import AttemptOutcome
from edif.wire import link
from edif.wire.link import ModelSpec
from edif.worker import agent as agent_module
from edif.worker.agent import Agent, AgentConfig, GatewayAddress
from edif.worker.attempt import cancelled
from fuzz.pipe_messages import RUN


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
    agent = _agent(tmp_path)
    await agent._send_metadata(ModelSpec("org/name"))
    assert sent == ["org/name"]
    failures.extend([_OfAnotherLibrary("never")] * 9)
    await agent._send_metadata(ModelSpec("org/name"))
    assert sent == ["org/name"], "given up, and nothing raised"
    await agent._http.aclose()
    await agent._links.aclose()


def _agent(folder: Path) -> Agent:
    gateways = (GatewayAddress("http://127.0.0.1:9"),)
    return Agent(AgentConfig("a1", gateways, "token", folder / "spool", None, {}, 0.0))


class _Attempts:
    """Attempts that end when they are told to, and some time after they were cancelled."""

    def __init__(self) -> None:
        self.begun: list[link.RunAttempt] = []
        self.end = asyncio.Event()
        self.cleaned = asyncio.Event()

    async def run(self, message: link.RunAttempt, *_: object) -> link.AttemptEnded:
        self.begun.append(message)
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            await self.cleaned.wait()
            return cancelled(message)
        ended = cancelled(message)
        return msgspec.structs.replace(ended, outcome=AttemptOutcome.COMPLETED, error_code=None)


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    made = _agent(tmp_path)
    async with asyncio.TaskGroup() as tasks:
        made._tasks = tasks
        made._connected = True
        yield made
    await made._http.aclose()
    await made._links.aclose()


def _ends(agent: Agent) -> list[AttemptOutcome]:
    said = [agent._outbox.get_nowait() for _ in range(agent._outbox.qsize())]
    return [message.outcome for message in said if isinstance(message, link.AttemptEnded)]


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def unwanted(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> _Attempts:
    """One is being ended, for the gateway that the agent has just come to knows nothing of it."""
    attempts = _Attempts()
    monkeypatch.setattr(agent_module, "run_attempt", attempts.run)
    agent._hear(RUN)
    await _settle()
    await agent._welcome(link.Welcome("edif", "store", [link.AttemptRef(RUN.job, RUN.attempt)]))
    return attempts


async def test_a_try_that_a_dead_gateway_did_not_record_is_begun_again_under_its_number(
    agent: Agent, unwanted: _Attempts
) -> None:
    """How the first one ends is nobody's business: believed, it would cancel a job that nobody wants cancelled."""
    agent._hear(RUN)
    await _settle()
    assert len(unwanted.begun) == 1, "the first one is still being ended"
    unwanted.cleaned.set()
    await _settle()
    assert (len(unwanted.begun), _ends(agent)) == (2, [])
    unwanted.end.set()
    await _settle()
    assert _ends(agent) == [AttemptOutcome.COMPLETED]


async def test_the_try_that_waits_for_it_can_be_cancelled(agent: Agent, unwanted: _Attempts) -> None:
    agent._hear(RUN)
    agent._hear(link.CancelAttempt(RUN.job, RUN.attempt))
    unwanted.cleaned.set()
    await _settle()
    assert (len(unwanted.begun), _ends(agent)) == (1, [AttemptOutcome.CANCELLED])


async def test_what_no_gateway_wants_ends_without_a_word(agent: Agent, unwanted: _Attempts) -> None:
    unwanted.cleaned.set()
    await _settle()
    assert _ends(agent) == []
    assert (agent._attempts, agent._unwanted, agent._unconfirmed) == ({}, {}, {})


async def test_a_try_that_is_cancelled_before_its_first_step_ends_all_the_same(agent: Agent) -> None:
    agent._hear(RUN)
    agent._hear(link.CancelAttempt(RUN.job, RUN.attempt))
    await _settle()
    assert (_ends(agent), agent._attempts) == ([AttemptOutcome.CANCELLED], {})
