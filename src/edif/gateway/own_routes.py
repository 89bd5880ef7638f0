"""eDIF's own routes, below ``/edif/v1``: jobs for their owners, everything for operators."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from edif import __version__
from edif.core import errors
from edif.core.errors import EdifError
from edif.core.ids import ModelId
from edif.core.job import Job, JobState
from edif.gateway.edge import Edge, base_url, edge_of
from edif.records.store import RecordStore

router = APIRouter(prefix="/edif/v1")

_MAX_LISTED = 1000


def job_view(job: Job) -> dict[str, Any]:
    """A job as JSON; times are Unix seconds."""
    view = asdict(job)
    view.pop("client_key")
    return view


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Green only while the runtime works through its inbox and at least one agent is there."""
    edge = edge_of(request)
    if not edge.fabric.alive:
        raise EdifError(errors.INTERNAL, "The gateway's runtime is not running.")
    return {
        "version": __version__,
        "agents": len(edge.fabric.agents()),
        "accepting": True,
        "draining": edge.fabric.draining,
        "running": edge.fabric.running(),
    }


@router.get("/jobs")
async def list_jobs(request: Request, state: str | None = None, limit: int = 100) -> dict[str, Any]:
    edge = edge_of(request)
    identity = await edge.auth.identify(request)
    states = [JobState(state)] if state in set(JobState) else []
    owner = None if identity.operator else identity.name
    jobs = await _records(request).jobs(owner=owner, states=states, limit=min(max(limit, 1), _MAX_LISTED))
    return {"jobs": [job_view(job) for job in jobs]}


@router.get("/jobs/{job_id}")
async def show_job(request: Request, job_id: str) -> dict[str, Any]:
    edge, job = await _own_job(request, job_id)
    view = job_view(job)
    frame = await edge.fabric.status(job, base_url(request))
    view["status"] = frame.status.value
    view["status_description"] = frame.description
    view["tries"] = [asdict(attempt) for attempt in await _records(request).attempts(job.id)]
    return view


@router.post("/jobs/{job_id}/cancel", status_code=202)
async def cancel_job(request: Request, job_id: str) -> dict[str, Any]:
    edge = edge_of(request)
    identity = await edge.auth.identify(request)
    job = await edge.fabric.find(job_id, identity)
    await edge.fabric.cancel(job, identity.name)
    return {"id": job.id, "cancelling": True}


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    edge = edge_of(request)
    await edge.auth.identify(request)
    return {"models": edge.fabric.models()}


@router.post("/models/{model:path}/deploy", status_code=202)
async def deploy(request: Request, model: str) -> dict[str, Any]:
    edge = edge_of(request)
    operator = await edge.auth.identify_operator(request)
    await edge.fabric.deploy(ModelId(model), operator.name)
    return {"model": model, "deploying": True}


@router.post("/models/{model:path}/evict", status_code=202)
async def evict(request: Request, model: str) -> dict[str, Any]:
    edge = edge_of(request)
    operator = await edge.auth.identify_operator(request)
    await edge.fabric.evict(ModelId(model), operator.name)
    return {"model": model, "evicting": True}


@router.get("/quota")
async def quota(request: Request) -> dict[str, Any]:
    """What the caller and the caller's group may use and use, by measure; ``frees_at`` in Unix seconds."""
    edge = edge_of(request)
    identity = await edge.auth.identify(request)
    return edge.fabric.uses(identity.name)


@router.post("/drain", status_code=202)
async def drain(request: Request) -> dict[str, Any]:
    edge = edge_of(request)
    operator = await edge.auth.identify_operator(request)
    await edge.fabric.drain(operator.name)
    return {"draining": True, "running": edge.fabric.running()}


@router.post("/resume", status_code=202)
async def resume(request: Request) -> dict[str, Any]:
    edge = edge_of(request)
    operator = await edge.auth.identify_operator(request)
    await edge.fabric.resume(operator.name)
    return {"draining": False, "running": edge.fabric.running()}


@router.get("/agents")
async def list_agents(request: Request) -> dict[str, Any]:
    edge = edge_of(request)
    await edge.auth.identify_operator(request)
    return {"agents": edge.fabric.agents()}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    edge = edge_of(request)
    await edge.auth.identify_operator(request)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _own_job(request: Request, job_id: str) -> tuple[Edge, Job]:
    edge = edge_of(request)
    identity = await edge.auth.identify(request)
    return edge, await edge.fabric.find(job_id, identity)


def _records(request: Request) -> RecordStore:
    records: RecordStore = request.app.state.records
    return records
