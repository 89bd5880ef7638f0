"""Which node agents are linked now, and how to speak with them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edif.core.ids import AgentId
from edif.wire import link


@dataclass(frozen=True, slots=True, eq=False)
class AgentLink:
    """One connection of an agent: what it said of itself, and how it is answered."""

    hello: link.Hello
    send: Callable[[link.ToAgent], None]

    @property
    def agent(self) -> AgentId:
        return AgentId(self.hello.agent)


class AgentLinks:
    """The present link of every agent. A message to one that is away is dropped: it will be told when it
    returns what of its work is still wanted.
    """

    def __init__(self) -> None:
        self._links: dict[AgentId, AgentLink] = {}

    def __len__(self) -> int:
        return len(self._links)

    def join(self, joined: AgentLink) -> None:
        """The agent speaks over this link from now on, and over no earlier one."""
        self._links[joined.agent] = joined

    def leave(self, left: AgentLink) -> bool:
        """The link is down; False if the agent has already come back on another."""
        if self._links.get(left.agent) is not left:
            return False
        del self._links[left.agent]
        return True

    def send(self, agent: AgentId, message: link.ToAgent) -> None:
        if (joined := self._links.get(agent)) is not None:
            joined.send(message)

    def hellos(self) -> dict[AgentId, link.Hello]:
        return {agent: joined.hello for agent, joined in self._links.items()}

    def environment(self) -> dict[str, Any]:
        """Python and package versions of the workers, for ``GET /env``."""
        for joined in self._links.values():
            return {"python_version": joined.hello.python_version, "packages": joined.hello.packages}
        return {"python_version": "", "packages": {}}
