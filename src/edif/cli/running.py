"""``edif serve``, ``edif gateway`` and ``edif agent``."""

import textwrap
from typing import Annotated, Any

import httpx
import typer

from edif.cli.options import Config, Data
from edif.cli.output import say
from edif.core.limits import Isolation, Merge, Padding
from edif.settings import Settings, load

Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.", show_default="127.0.0.1")]
Port = Annotated[int | None, typer.Option("--port", help="Port; 0 takes a free one.", show_default="8289")]
Model = Annotated[
    list[str] | None, typer.Option("--model", help="A model to serve: ID or ID=FOLDER. Repeatable.")
]
Demo = Annotated[bool | None, typer.Option("--demo", help="Serve the bundled demo model.")]
PublicUrl = Annotated[
    str | None,
    typer.Option("--public-url", help="The URL that clients use, behind a proxy.", show_default=False),
]
TlsCert = Annotated[
    str | None,
    typer.Option("--tls-cert", help="Certificate and chain, PEM: speak TLS.", show_default=False),
]
TlsKey = Annotated[
    str | None, typer.Option("--tls-key", help="The certificate's private key, PEM.", show_default=False)
]

OnDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Where models compute: cpu, or one NVIDIA GPU, cuda or cuda:N (never run on one yet).",
        show_default="cpu",
    ),
]
Isolated = Annotated[
    Isolation | None,
    typer.Option(
        "--isolation",
        help="Where jobs run: sealed, each in a cell of its own; shared, in one process; auto, sealed from the first user on.",
        show_default="auto",
    ),
]
Merged = Annotated[
    Merge | None,
    typer.Option("--merge", help="Whether traces of several jobs share forward passes.", show_default="auto"),
]
Padded = Annotated[
    Padding | None,
    typer.Option(
        "--merge-padding",
        help="Whether prompts of different length do, the shorter ones padded.",
        show_default="auto",
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option("--job-time-limit", help="Wall time of one job, in seconds.", show_default="600"),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        "--job-memory-limit", help="Memory of one sealed job beyond the model's.", show_default="2GiB"
    ),
]
ResultLimit = Annotated[
    str | None,
    typer.Option("--result-limit", help="Size of one result before compression.", show_default="1GiB"),
]

Standby = Annotated[
    bool | None,
    typer.Option("--standby", help="Wait while another gateway leads, and take over when it is gone."),
]


_CLIENT = "nnsight 0.8.1, and transformers older than 5.23"


def _settings(config: Config, **flags: Any) -> Settings:
    models = flags.pop("model", None)
    return load(config, models=tuple(models) if models else None, **flags)


def serve(
    demo: Demo = None,
    model: Model = None,
    host: Host = None,
    port: Port = None,
    data: Data = None,
    config: Config = None,
    public_url: PublicUrl = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    device: OnDevice = None,
    isolation: Isolated = None,
    merge: Merged = None,
    merge_padding: Padded = None,
    job_time_limit: TimeLimit = None,
    job_memory_limit: MemoryLimit = None,
    result_limit: ResultLimit = None,
    standby: Standby = None,
) -> None:
    """Run a whole fabric on this machine: a gateway and an agent, kept running."""
    from edif.launch.serve import Supervisor

    settings = _settings(
        config,
        demo=demo,
        model=model,
        host=host,
        port=port,
        data=data,
        public_url=public_url,
        tls_cert=tls_cert,
        tls_key=tls_key,
        device=device,
        isolation=isolation,
        merge=merge,
        merge_padding=merge_padding,
        time_limit_s=job_time_limit,
        memory_limit_bytes=job_memory_limit,
        result_limit_bytes=result_limit,
        standby=standby,
    )
    if not (settings.demo or settings.models or settings.deployments):
        settings = settings.model_copy(update={"demo": True})
        say("No model is named, so the demo model is served.")
    Supervisor(
        settings,
        on_ready=lambda url: say(_greeting(settings, url)),
        on_wait=say,
    ).run()


def gateway(
    demo: Demo = None,
    model: Model = None,
    host: Host = None,
    port: Port = None,
    data: Data = None,
    config: Config = None,
    public_url: PublicUrl = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    device: OnDevice = None,
    isolation: Isolated = None,
    merge: Merged = None,
    merge_padding: Padded = None,
    job_time_limit: TimeLimit = None,
    job_memory_limit: MemoryLimit = None,
    result_limit: ResultLimit = None,
    standby: Standby = None,
) -> None:
    """Run a gateway alone; agents on other machines join it."""
    from edif.launch.gateway import run

    run(
        _settings(
            config,
            demo=demo,
            model=model,
            host=host,
            port=port,
            data=data,
            public_url=public_url,
            tls_cert=tls_cert,
            tls_key=tls_key,
            device=device,
            isolation=isolation,
            merge=merge,
            merge_padding=merge_padding,
            time_limit_s=job_time_limit,
            memory_limit_bytes=job_memory_limit,
            result_limit_bytes=result_limit,
            standby=standby,
        )
    )


def agent(
    gateway_url: Annotated[
        list[str] | None,
        typer.Option(
            "--gateway",
            help="The gateway's URL. Repeatable: the one that leads is found.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Run a node agent alone; it dials out to the gateway (EDIF_WORKER_TOKEN lets it in)."""
    from edif.launch.agent import run

    run(load(config, gateway_url=tuple(gateway_url) if gateway_url else None, data=data))


def _greeting(settings: Settings, url: str) -> str:
    """What is said of the gateway that has just come up."""
    from edif.launch.data_folder import DataFolder
    from edif.launch.tls import client_context

    tls = client_context(settings, DataFolder(settings.data.resolve()), url) or True
    welcome = _welcome(settings, url, keys_needed=httpx.get(f"{url}/whoami", verify=tls).status_code == 401)
    if httpx.get(f"{url}/edif/v1/health", verify=tls).json()["draining"]:
        welcome += "\n\nIt was drained with `edif drain`, and begins no jobs until: edif resume"
    return welcome


def _welcome(settings: Settings, url: str, *, keys_needed: bool) -> str:
    from edif.launch.models import catalogue_of

    public = settings.public_url or url
    first = next(iter(catalogue_of(settings))).spec.id
    variables = f"export NDIF_HOST={public} HF_ENDPOINT={public}/hub"
    if keys_needed:
        variables += "\n    export NDIF_API_KEY=<key> HF_TOKEN=<key>    # a key: edif keys create --user NAME"
    if public.startswith("https:"):
        variables += (
            "\n    export SSL_CERT_FILE=<file>    # only if the certificate's authority is a private one"
        )
    program = textwrap.dedent(
        f"""\
        from nnsight import TransformersModel

        model = TransformersModel("{first}", task="text-generation")
        with model.trace("When Mary and John went to the store , John gave a drink to", remote=True):
            logits = model.lm_head.output[0, -1].save()

        for token in logits.topk(3).indices:
            print(model.tokenizer.decode(token), float(logits.softmax(-1)[token]))"""
    )
    return (
        f"eDIF is listening at {url} and brings its models up.\n\n"
        f"In the shell where you work (it needs {_CLIENT}):\n\n    {variables}\n\n"
        f"In a file, say hello.py:\n\n{textwrap.indent(program, '    ')}\n\n"
        f"Data: {settings.data.resolve()}. Stop with Ctrl-C: jobs that run may end first, and all others are kept for the next start."
    )
