"""``edif models``, ``edif jobs`` and ``edif status``: asked of a gateway that runs."""

from typing import Annotated, Any

import typer

from edif.cli.api import Api, connect
from edif.cli.options import AsJson, Config, Data, Url
from edif.cli.output import moment, say, show_json, show_table
from edif.settings import ClientVariables, load

models = typer.Typer(no_args_is_help=True, help="The served models.")
jobs = typer.Typer(no_args_is_help=True, help="Jobs: your own, or everyone's for an operator.")


def _api(config: Config, data: Data, url: Url) -> Api:
    """What is asked of any fabric: who is on no fabric's machine, and names none, means the one that their programs use."""
    client = ClientVariables.read()
    return connect(load(config, data=data), url, client if data is None else client.without_url())


def _steered(config: Config, data: Data, url: Url) -> Api:
    """What steers a fabric: it is never one that only variables of clients name."""
    return connect(load(config, data=data), url, ClientVariables.read().without_url())


def _show_models(rows: list[dict[str, Any]]) -> None:
    show_table(
        ("model", "state", "replicas", "queued", "dtype", "task"),
        [(r["model"], r["state"], r["replicas"], r["queued"], r["dtype"], r["task"]) for r in rows],
        "No models are served.",
    )


@models.command("list")
def models_list(data: Data = None, config: Config = None, url: Url = None, as_json: AsJson = False) -> None:
    """List the served models and how far each is."""
    answer = _api(config, data, url).get("/edif/v1/models")
    if as_json:
        show_json(answer["models"])
    else:
        _show_models(answer["models"])


@models.command("deploy")
def models_deploy(
    model: str, data: Data = None, config: Config = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Bring a model up and keep it up."""
    answer = _steered(config, data, url).post(f"/edif/v1/models/{model}/deploy")
    if as_json:
        show_json(answer)
    else:
        say(f"{model} is being brought up; see edif models list.")


@models.command("evict")
def models_evict(
    model: str, data: Data = None, config: Config = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Take a model down after its running job; the next request brings it up again."""
    answer = _steered(config, data, url).post(f"/edif/v1/models/{model}/evict")
    if as_json:
        show_json(answer)
    else:
        say(f"{model} is being taken down; the next request brings it up again.")


@jobs.command("list")
def jobs_list(
    state: Annotated[
        str | None, typer.Option(help="queued, running, completed, failed or cancelled.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
    data: Data = None,
    config: Config = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    answer = _api(config, data, url).get("/edif/v1/jobs", state=state, limit=limit)
    if as_json:
        show_json(answer["jobs"])
        return
    rows = [
        (j["id"], j["owner"], j["model"], j["state"], j["attempts"], moment(j["created_at"]), j["error_code"])
        for j in answer["jobs"]
    ]
    show_table(("id", "owner", "model", "state", "tries", "sent", "error"), rows, "No jobs.")


@jobs.command("show")
def jobs_show(
    job_id: str, data: Data = None, config: Config = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Show everything about one job."""
    answer = _api(config, data, url).get(f"/edif/v1/jobs/{job_id}")
    if as_json:
        show_json(answer)
        return
    facts = [
        (name, moment(value) if name.endswith("_at") else value)
        for name, value in answer.items()
        if name not in ("meta", "tries", "model_key")
    ]
    facts += [(f"meta.{name}", value) for name, value in answer["meta"].items()]
    facts += [
        (f"try {t['number']}", f"{t['outcome'] or 'running'} on {t['replica']}") for t in answer["tries"]
    ]
    show_table(("", ""), facts, "")


@jobs.command("cancel")
def jobs_cancel(
    job_id: str, data: Data = None, config: Config = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Cancel a job, wherever it is; code that does not stop is ended with its process."""
    answer = _api(config, data, url).post(f"/edif/v1/jobs/{job_id}/cancel")
    if as_json:
        show_json(answer)
    else:
        say(f"{job_id} is being cancelled.")


@jobs.command("revoke-links")
def jobs_revoke_links(
    job_id: str, data: Data = None, config: Config = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Have no link to a job's result that was made until now open it any more; its owner can ask for a fresh one."""
    answer = _api(config, data, url).post(f"/edif/v1/jobs/{job_id}/revoke-links")
    if as_json:
        show_json(answer)
    else:
        say(f"Links to the result of {job_id} that were made until now open nothing any more.")


@jobs.command("delete-result")
def jobs_delete_result(
    job_id: str, data: Data = None, config: Config = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Delete a job's result before its time, for good; the record of the job stays."""
    answer = _api(config, data, url).delete(f"/edif/v1/jobs/{job_id}/result")
    if as_json:
        show_json(answer)
    else:
        say(f"The result of {job_id} is deleted.")


def drain(data: Data = None, config: Config = None, url: Url = None, as_json: AsJson = False) -> None:
    """Begin no more jobs: what runs, ends; what waits, waits, and new ones are taken. Until resume, over every new start."""
    answer = _steered(config, data, url).post("/edif/v1/drain")
    if as_json:
        show_json(answer)
    else:
        say(
            f"The fabric begins no more jobs; {answer['running']} run. See edif status; edif resume undoes it."
        )


def resume(data: Data = None, config: Config = None, url: Url = None, as_json: AsJson = False) -> None:
    """Begin jobs again after edif drain."""
    answer = _steered(config, data, url).post("/edif/v1/resume")
    if as_json:
        show_json(answer)
    else:
        say("The fabric begins jobs again.")


def status(data: Data = None, config: Config = None, url: Url = None, as_json: AsJson = False) -> None:
    """Show whether the fabric works, and what it serves."""
    api = _api(config, data, url)
    health = api.get("/edif/v1/health")
    served = api.get("/edif/v1/models")["models"]
    if as_json:
        show_json({"url": api.url, **health, "models": served})
        return
    state = "; it is drained and begins no jobs" if health["draining"] else ""
    say(
        f"eDIF {health['version']} at {api.url}: {health['agents']} agent(s), {health['running']} job(s) run{state}"
    )
    _show_models(served)
