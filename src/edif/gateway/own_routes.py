"""eDIF's own routes, below ``/edif/v1``: jobs for their owners, everything for operators."""

from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from edif import __version__
from edif.core import errors
from edif.core.errors import EdifError
from edif.core.ids import ModelId
from edif.core.job import Attempt, ClientStatus, Job, JobState
from edif.core.quota import Measure
from edif.gateway.description import Answer, Asks, Operation, Parameter
from edif.gateway.edge import Edge, base_url, edge_of
from edif.records.store import RecordStore

router = APIRouter(prefix="/edif/v1")

_MAX_LISTED = 1000


_NOT_SHOWN = ("client_key", "extras")


def job_view(job: Job) -> dict[str, Any]:
    """A job as JSON; times are Unix seconds."""
    return {name: value for name, value in asdict(job).items() if name not in _NOT_SHOWN}


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Green only while the runtime works through its inbox and at least one agent is there."""
    edge = edge_of(request)
    if not edge.fabric.alive:
        raise EdifError(errors.INTERNAL, "The gateway's runtime is not running.")
    return {
        "version": __version__,
        "agents": len(edge.fabric.overview.agents()),
        "accepting": True,
        "draining": edge.fabric.overview.draining,
        "running": edge.fabric.overview.running(),
    }


@router.get("/jobs")
async def list_jobs(
    request: Request, state: JobState | None = None, limit: Annotated[int, Query(ge=1, le=_MAX_LISTED)] = 100
) -> dict[str, Any]:
    edge = edge_of(request)
    identity = await edge.auth.identify(request)
    states = [] if state is None else [state]
    owner = None if identity.operator else identity.name
    jobs = await _records(request).jobs(owner=owner, states=states, limit=limit)
    return {"jobs": [job_view(job) for job in jobs]}


@router.get("/jobs/{job_id}")
async def show_job(request: Request, job_id: str) -> dict[str, Any]:
    edge, job = await _own_job(request, job_id)
    view = job_view(job)
    frame = await edge.fabric.jobs.status(job, base_url(request))
    view["status"] = frame.status.value
    view["status_description"] = frame.description
    view["tries"] = [asdict(attempt) for attempt in await _records(request).attempts(job.id)]
    return view


@router.get("/jobs/{job_id}/kept")
async def show_kept(request: Request, job_id: str) -> dict[str, Any]:
    """Where what the job keeps can be fetched. What lies where in it, the job's result says."""
    edge, job = await _own_job(request, job_id)
    url = await edge.fabric.jobs.kept_link(job, base_url(request))
    return {"url": url, "size_bytes": job.kept_bytes}


@router.post("/jobs/{job_id}/cancel", status_code=202)
async def cancel_job(request: Request, job_id: str) -> dict[str, Any]:
    edge = edge_of(request)
    identity = await edge.auth.identify(request)
    job = await edge.fabric.jobs.find(job_id, identity)
    await edge.fabric.jobs.cancel(job, identity.name)
    return {"id": job.id, "cancelling": True}


@router.post("/jobs/{job_id}/revoke-links")
async def revoke_links(request: Request, job_id: str) -> dict[str, Any]:
    edge = edge_of(request)
    identity = await edge.auth.identify(request)
    job = await edge.fabric.jobs.revoke_links(await edge.fabric.jobs.find(job_id, identity), identity.name)
    return {"id": job.id, "revocations": job.revocations}


@router.delete("/jobs/{job_id}/result")
async def delete_result(request: Request, job_id: str) -> dict[str, Any]:
    edge = edge_of(request)
    identity = await edge.auth.identify(request)
    job = await edge.fabric.jobs.find(job_id, identity)
    await edge.fabric.jobs.delete_result(job, identity.name)
    return {"id": job.id, "deleted": True}


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    edge = edge_of(request)
    await edge.auth.identify(request)
    return {"models": edge.fabric.overview.models()}


@router.post("/models/{model:path}/deploy", status_code=202)
async def deploy(request: Request, model: str) -> dict[str, Any]:
    edge = edge_of(request)
    operator = await edge.auth.identify_operator(request)
    await edge.fabric.steering.deploy(ModelId(model), operator.name)
    return {"model": model, "deploying": True}


@router.post("/models/{model:path}/evict", status_code=202)
async def evict(request: Request, model: str) -> dict[str, Any]:
    edge = edge_of(request)
    operator = await edge.auth.identify_operator(request)
    await edge.fabric.steering.evict(ModelId(model), operator.name)
    return {"model": model, "evicting": True}


@router.get("/quota")
async def quota(request: Request) -> dict[str, Any]:
    """What the caller and the caller's group may use and use, by measure; ``frees_at`` in Unix seconds."""
    edge = edge_of(request)
    identity = await edge.auth.identify(request)
    return edge.fabric.jobs.uses(identity.name)


@router.post("/drain", status_code=202)
async def drain(request: Request) -> dict[str, Any]:
    edge = edge_of(request)
    operator = await edge.auth.identify_operator(request)
    await edge.fabric.steering.drain(operator.name)
    return {"draining": True, "running": edge.fabric.overview.running()}


@router.post("/resume", status_code=202)
async def resume(request: Request) -> dict[str, Any]:
    edge = edge_of(request)
    operator = await edge.auth.identify_operator(request)
    await edge.fabric.steering.resume(operator.name)
    return {"draining": False, "running": edge.fabric.overview.running()}


@router.get("/agents")
async def list_agents(request: Request) -> dict[str, Any]:
    edge = edge_of(request)
    await edge.auth.identify_operator(request)
    return {"agents": edge.fabric.overview.agents()}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    edge = edge_of(request)
    await edge.auth.identify_operator(request)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _own_job(request: Request, job_id: str) -> tuple[Edge, Job]:
    edge = edge_of(request)
    identity = await edge.auth.identify(request)
    return edge, await edge.fabric.jobs.find(job_id, identity)


def _records(request: Request) -> RecordStore:
    records: RecordStore = request.app.state.records
    return records


# -- how they are described ----------------------------------------------------------------------------
_VIEWED = [(field.name, field.type) for field in fields(Job) if field.name not in _NOT_SHOWN]
JobView = msgspec.defstruct("JobView", _VIEWED)
JobDetail = msgspec.defstruct(
    "JobDetail",
    [*_VIEWED, ("status", ClientStatus), ("status_description", str), ("tries", list[Attempt])],
)
Jobs = msgspec.defstruct("Jobs", [("jobs", list[JobView])])  # type: ignore[valid-type]


class Health(msgspec.Struct):
    version: str
    agents: int
    accepting: bool
    draining: bool
    running: int


class Kept(msgspec.Struct):
    url: str
    size_bytes: int


class Cancelling(msgspec.Struct):
    id: str
    cancelling: bool


class Revoked(msgspec.Struct):
    id: str
    revocations: int


class ResultDeleted(msgspec.Struct):
    id: str
    deleted: bool


class ServedModel(msgspec.Struct):
    model: str
    revision: str | None
    task: str
    dtype: str
    trust_remote_code: bool
    isolation: Literal["sealed", "shared"]
    merge: Literal["auto", "off", "always"]
    jobs_at_once: int
    state: Literal["RUNNING", "DEPLOYING", "NOT_STARTED"]
    replicas: int
    queued: int


class Models(msgspec.Struct):
    models: list[ServedModel]


class Deploying(msgspec.Struct):
    model: str
    deploying: bool


class Evicting(msgspec.Struct):
    model: str
    evicting: bool


class Allowance(msgspec.Struct):
    limit: float | None
    used: float
    frees_at: float | None


class Allowances(msgspec.Struct):
    user: dict[Measure, Allowance]
    group: dict[Measure, Allowance] | None


class Draining(msgspec.Struct):
    draining: bool
    running: int


class JoinedAgent(msgspec.Struct):
    agent: str
    host: str
    pid: int
    running: int


class Agents(msgspec.Struct):
    agents: list[JoinedAgent]


described = [
    Operation(
        "GET",
        "/edif/v1/health",
        "Whether the fabric works.",
        Asks.ANYBODY,
        (Answer("It does; 500 if its runtime does not run.", Health),),
    ),
    Operation(
        "GET",
        "/edif/v1/openapi.json",
        "This description.",
        Asks.ANYBODY,
        (Answer("OpenAPI 3.1.", dict[str, Any]),),
    ),
    Operation(
        "GET",
        "/edif/v1/jobs",
        "Own jobs, newest first; everyone's for an operator.",
        Asks.KEY,
        (Answer("The jobs.", Jobs),),
        fails=(errors.REQUEST_INVALID,),
        parameters=(
            Parameter("state", "Only those in this state.", {"enum": sorted(JobState)}),
            Parameter(
                "limit",
                "How many.",
                {"type": "integer", "minimum": 1, "maximum": _MAX_LISTED, "default": 100},
            ),
        ),
    ),
    Operation(
        "GET",
        "/edif/v1/jobs/{job_id}",
        "One job with its tries.",
        Asks.KEY,
        (Answer("The job.", JobDetail),),
        fails=(errors.JOB_UNKNOWN,),
    ),
    Operation(
        "GET",
        "/edif/v1/jobs/{job_id}/kept",
        "Where the values lie that a job keeps on the fabric.",
        Asks.KEY,
        (Answer("A link that takes ranges.", Kept),),
        fails=(errors.JOB_UNKNOWN, errors.KEPT_GONE, *errors.BLOBS_AWAY),
    ),
    Operation(
        "POST",
        "/edif/v1/jobs/{job_id}/cancel",
        "Cancel a job, wherever it is.",
        Asks.KEY,
        (Answer("It is on record that the job is to end.", Cancelling, 202),),
        fails=(errors.JOB_UNKNOWN, errors.STATE_CONFLICT),
    ),
    Operation(
        "POST",
        "/edif/v1/jobs/{job_id}/revoke-links",
        "Have no link to the job's result that was made until now open it any more.",
        Asks.KEY,
        (Answer("None does; how often it was done by now.", Revoked),),
        fails=(errors.JOB_UNKNOWN, errors.STATE_CONFLICT, errors.RESULT_GONE, *errors.BLOBS_AWAY),
    ),
    Operation(
        "DELETE",
        "/edif/v1/jobs/{job_id}/result",
        "Delete the result of a job that has ended, before its time.",
        Asks.KEY,
        (Answer("It is not kept any more.", ResultDeleted),),
        fails=(errors.JOB_UNKNOWN, errors.STATE_CONFLICT, *errors.BLOBS_AWAY),
    ),
    Operation(
        "GET", "/edif/v1/models", "Served models and their state.", Asks.KEY, (Answer("The models.", Models),)
    ),
    Operation(
        "POST",
        "/edif/v1/models/{model}/deploy",
        "Bring a model up and keep it up.",
        Asks.OPERATOR,
        (Answer("It is being brought up.", Deploying, 202),),
        fails=(errors.MODEL_NOT_SERVED,),
    ),
    Operation(
        "POST",
        "/edif/v1/models/{model}/evict",
        "Take a model down after its running job.",
        Asks.OPERATOR,
        (Answer("It is being taken down.", Evicting, 202),),
        fails=(errors.MODEL_NOT_SERVED,),
    ),
    Operation(
        "GET",
        "/edif/v1/quota",
        "What the caller and the caller's group may use, and use.",
        Asks.KEY,
        (Answer("By measure; hours of freeing in Unix seconds.", Allowances),),
    ),
    Operation(
        "POST",
        "/edif/v1/drain",
        "Begin no more jobs; what runs, ends, what waits, waits.",
        Asks.OPERATOR,
        (Answer("Nothing begins any more.", Draining, 202),),
    ),
    Operation(
        "POST",
        "/edif/v1/resume",
        "Begin jobs again.",
        Asks.OPERATOR,
        (Answer("Jobs begin again.", Draining, 202),),
    ),
    Operation("GET", "/edif/v1/agents", "Node agents.", Asks.OPERATOR, (Answer("The agents.", Agents),)),
    Operation(
        "GET",
        "/edif/v1/metrics",
        "Metrics for Prometheus.",
        Asks.OPERATOR,
        (Answer("Its text format.", media="text/plain"),),
    ),
]
