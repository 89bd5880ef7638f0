"""What is served, by whom, and how far it is."""

from typing import Any

from edif.gateway.agents import AgentLinks
from edif.gateway.sealing import Sealing
from edif.models.catalogue import Catalogue
from edif.scheduler.decide import Scheduler


class Overview:
    """Reads what the scheduler and the agents' links know at this moment; changes nothing."""

    def __init__(
        self, scheduler: Scheduler, catalogue: Catalogue, sealing: Sealing, agents: AgentLinks
    ) -> None:
        self._scheduler = scheduler
        self._catalogue = catalogue
        self._sealing = sealing
        self._agents = agents

    @property
    def draining(self) -> bool:
        return self._scheduler.draining

    def running(self) -> int:
        """How many jobs run now."""
        return self._scheduler.running()

    def models(self) -> list[dict[str, Any]]:
        """What is served and how far it is, for ``/status`` and the command line."""
        rows = []
        for view in self._scheduler.view():
            deployment = self._catalogue[view.model]
            spec = deployment.spec
            state = "RUNNING" if view.ready else "DEPLOYING" if view.loading else "NOT_STARTED"
            rows.append(
                {
                    "model": view.model,
                    "revision": spec.revision,
                    "task": spec.task,
                    "dtype": spec.dtype,
                    "trust_remote_code": spec.trust_remote_code,
                    "isolation": "shared" if self._sealing.cell(deployment) is None else "sealed",
                    "merge": deployment.merge.value,
                    "jobs_at_once": self._sealing.slots(deployment),
                    "state": state,
                    "replicas": view.ready,
                    "queued": view.queued,
                }
            )
        return rows

    def agents(self) -> list[dict[str, Any]]:
        return [
            {
                "agent": agent,
                "host": hello.host,
                "pid": hello.pid,
                "running": len(self._scheduler.running_on(agent)),
            }
            for agent, hello in self._agents.hellos().items()
        ]

    def environment(self) -> dict[str, Any]:
        """Python and package versions of the workers, for ``GET /env``."""
        return self._agents.environment()

    @property
    def serving_python(self) -> str:
        return str(self.environment()["python_version"])
