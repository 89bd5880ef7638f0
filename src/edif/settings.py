"""Every setting of eDIF: from flags, the environment (``EDIF_*``) and ``edif.toml``, in this order.

This is the only module that reads the environment. ``docs/configuration.md`` lists each setting; a test
compares the two.
"""

import difflib
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from edif.core import errors
from edif.core.addresses import parse_networks
from edif.core.errors import SetupError
from edif.core.limits import GIB, MIB, Isolation, Merge, Padding, SendFiles
from edif.faults import parse as parse_fault
from edif.wire.link import ON_CUDA, ON_HOST, ON_PROCESSOR

_DAY_S = 24 * 3600.0


def _device(value: str) -> str:
    if not re.fullmatch(rf"{ON_PROCESSOR}|{ON_CUDA}(:[0-9]{{1,2}})?|{ON_HOST}", value):
        raise ValueError("must be cpu, cuda or cuda:N")
    return value


Device = Annotated[str, AfterValidator(_device)]


class DeploymentSettings(BaseModel):
    """What an operator can set for one model: ``[deployments."org/name"]`` in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path | None = Field(
        default=None, description="Its folder; without one it is loaded from the Hub."
    )
    revision: str | None = Field(default=None, description="The Hub revision.")
    task: str = Field(default="text-generation", description="The transformers pipeline task.")
    trust_remote_code: bool = Field(
        default=False, description="Whether the repository's own Python code may be run while loading."
    )
    dtype: str | None = Field(default=None, description="The torch dtype, if not that of all models.")
    device: Device | None = Field(default=None, description="Where it computes, if not as all models.")
    threads: int | None = Field(default=None, ge=1, description="Threads of a replica, if not as all models.")
    adapters: dict[str, str] | None = Field(
        default=None, description="Allowed PEFT adapters, if not those of all models."
    )
    isolation: Isolation | None = Field(
        default=None, description="Where its jobs run, if not as all models'."
    )
    sealed_at_once: int | None = Field(
        default=None, ge=1, description="Its sealed jobs at the same time, if not as all models'."
    )
    merge: Merge | None = Field(
        default=None, description="Whether its traces share forward passes, if not as all models'."
    )
    merge_padding: Padding | None = Field(
        default=None, description="Whether its prompts of different length do, if not as all models'."
    )


class Settings(BaseSettings):
    """What an operator can set. Sizes are bytes, times seconds."""

    model_config = SettingsConfigDict(
        env_prefix="EDIF_", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    data: Path = Field(default=Path("edif-data"), description="The data folder: records, blobs, secrets.")
    record_store: SecretStr | None = Field(
        default=None,
        description="A PostgreSQL database for the records, `postgresql://...`; else SQLite in the data folder.",
    )
    blobs: str | None = Field(
        default=None,
        description="An S3 bucket for payloads and results, `s3://BUCKET/PREFIX`; else a folder in the data folder.",
    )
    blobs_endpoint: str | None = Field(
        default=None, description="The URL of the S3 service, as clients and nodes reach it; else Amazon's."
    )
    blobs_region: str | None = Field(default=None, description="The bucket's region; else `us-east-1`.")
    blobs_credentials: Path | None = Field(
        default=None,
        description="A file with the S3 keys, as AWS tools write it; else the AWS_* variables, or the machine's own role.",
    )
    blobs_ca: Path | None = Field(
        default=None,
        description="Authorities (PEM) that may vouch for the S3 service, beside the system's.",
    )
    standby: bool = Field(
        default=False, description="Wait while another gateway leads, and take over when it is gone."
    )
    host: str = Field(default="127.0.0.1", description="The address on which the gateway listens.")
    port: int = Field(default=8289, ge=0, le=65535, description="The gateway's port; 0 takes a free one.")
    public_url: str | None = Field(
        default=None, description="The URL that clients use, if a proxy stands before."
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=(), description="Networks of proxies whose X-Forwarded-* headers are believed."
    )
    tls_cert: Path | None = Field(
        default=None,
        description="The gateway's certificate and its chain (PEM); with `tls_key` it speaks TLS.",
    )
    tls_key: Path | None = Field(default=None, description="The certificate's private key (PEM).")
    tls_ca: Path | None = Field(
        default=None,
        description="The authorities (PEM) that an agent or the command line trusts, in place of the system's.",
    )
    public_status: bool = Field(default=True, description="Whether /status and /env answer without a key.")
    status_per_s: float = Field(
        default=20.0,
        gt=0,
        allow_inf_nan=False,
        description="Answers of /status and /env per second and client.",
    )
    requests_per_s: float = Field(
        default=200.0,
        gt=0,
        allow_inf_nan=False,
        description="Requests of one user per second, to all routes that ask for a key. More than 20 at once take turns.",
    )
    refusals_per_s: float = Field(
        default=10.0,
        gt=0,
        allow_inf_nan=False,
        description="Refusals that one user or address is answered per second; further ones wait. With a wrong key or none: requests that are looked at.",
    )
    max_connections: int = Field(default=4096, ge=1, description="Open connections in all.")
    max_connections_per_address: int = Field(
        default=512, ge=1, description="Of them from one address (IPv6: one /64) that is no trusted proxy."
    )
    header_timeout_s: float = Field(
        default=10.0, gt=0, allow_inf_nan=False, description="Within this a request's head must be whole."
    )
    header_limit_bytes: ByteSize = Field(
        default=ByteSize(16 * 1024), gt=0, description="Size of a request's head."
    )
    stall_timeout_s: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="A client that takes nothing for this long, or over it sends a body too slowly, is cut.",
    )
    body_bytes_per_s: ByteSize = Field(
        default=ByteSize(1000), gt=0, description="The least rate of a request's body."
    )

    demo: bool = Field(default=False, description="Serve the bundled demo model.")
    models: tuple[str, ...] = Field(default=(), description="Served models, each ID or ID=FOLDER.")
    dtype: str = Field(default="float32", description="The torch dtype in which models are loaded.")
    device: Device = Field(
        default=ON_PROCESSOR,
        description="Where models compute: `cpu`, or one NVIDIA GPU, `cuda` or `cuda:N`. Never run on a GPU yet; see below.",
    )
    threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, description="Threads of a replica."
    )
    adapters: dict[str, str] = Field(
        default_factory=dict,
        description="Allowed PEFT adapters: id to folder, or to an empty text for the Hub.",
    )
    deployments: dict[str, DeploymentSettings] = Field(
        default_factory=dict, description="Models with settings of their own, by id; see below."
    )
    hub_upstream: str | None = Field(
        default=None, description="A Hub to fetch metadata of other models from."
    )

    time_limit_s: float = Field(default=600.0, gt=0, allow_inf_nan=False, description="Wall time of one job.")
    result_limit_bytes: ByteSize = Field(
        default=ByteSize(GIB), gt=0, description="Size of one result before compression."
    )
    payload_limit_bytes: ByteSize = Field(
        default=ByteSize(256 * MIB), gt=0, description="Size of one request as it travels."
    )
    payload_expanded_limit_bytes: ByteSize = Field(
        default=ByteSize(GIB), gt=0, description="Size of one request, decompressed."
    )
    isolation: Isolation = Field(
        default=Isolation.AUTO,
        description="Where jobs run: `sealed` in a cell of their own, `shared` in one process, `auto` sealed with users.",
    )
    sealed_at_once: int = Field(
        default=4,
        ge=1,
        description="Sealed jobs of one replica that run the model by themselves at the same time; shared ones do so one by one.",
    )
    merge: Merge = Field(
        default=Merge.AUTO,
        description="Whether traces of several jobs share forward passes: `auto` where it pays, `off` never, `always` "
        "wherever they can, and wait for each other (for tests).",
    )
    merge_rows: int = Field(
        default=16,
        ge=1,
        description="Prompts of one shared forward pass at most; a replica takes as many jobs at the same time.",
    )
    merge_tokens: int = Field(
        default=4096, ge=1, description="Tokens of one shared forward pass at most, padding included."
    )
    merge_tolerance: float = Field(
        default=64.0,
        ge=0,
        allow_inf_nan=False,
        description="By how much values of a shared pass may differ from those of a pass alone, in units in the last place of the "
        "model's dtype at the largest value of their kind; a model that exceeds it shares none.",
    )
    merge_wait_s: float = Field(
        default=0.5,
        ge=0,
        allow_inf_nan=False,
        description="How long a trace of a sealed job waits for others at most where `merge` is `always` (for tests).",
    )
    merge_padding: Padding = Field(
        default=Padding.AUTO,
        description="Whether prompts of different length share forward passes, the shorter ones padded: `on` where that keeps "
        "within `merge_tolerance`, `auto` only if values of a batch differ from those of a pass alone at equal lengths too, `off` never.",
    )
    memory_limit_bytes: ByteSize = Field(
        default=ByteSize(2 * GIB), gt=0, description="Memory of one sealed job beyond the model's."
    )
    scratch_limit_bytes: ByteSize = Field(
        default=ByteSize(256 * MIB),
        gt=0,
        description="Scratch folder of one sealed job; on hosts without user namespaces it has none.",
    )
    log_limit_bytes: ByteSize = Field(
        default=ByteSize(256 * 1024), gt=0, description="Text that one job may print."
    )
    push_bytes: ByteSize = Field(
        default=ByteSize(MIB), ge=0, description="Results up to this size are sent on the status socket."
    )
    link_mbit_s: float = Field(
        default=1000.0,
        gt=0,
        allow_inf_nan=False,
        description="What clients' lines carry, in Mbit/s: how hard results are compressed. A connected client measures its own.",
    )
    send_files: SendFiles = Field(
        default=SendFiles.AUTO,
        description="Whether the kernel sends results without copying them through the gateway (not with TLS): to other "
        "machines (`auto`), to all, to none.",
    )
    retention_s: float = Field(
        default=7 * _DAY_S,
        gt=0,
        allow_inf_nan=False,
        description="How long results are kept after their job has ended.",
    )
    record_retention_s: float = Field(
        default=365 * _DAY_S,
        gt=0,
        allow_inf_nan=False,
        description="How long records of jobs are kept; usage by day and the audit log stay.",
    )
    log_retention_s: float = Field(
        default=30 * _DAY_S,
        gt=0,
        allow_inf_nan=False,
        description="How long the log files of gateway and agent are kept; a new one is begun each day.",
    )
    contact: str | None = Field(
        default=None,
        description="Whom a user can ask for more quota: shown in refusals, e.g. a mail address.",
    )
    min_free_bytes: ByteSize = Field(
        default=ByteSize(GIB), ge=0, description="Below this much free disk new jobs are refused."
    )
    ping_s: float = Field(
        default=20.0,
        gt=0,
        allow_inf_nan=False,
        description="How often a silent socket is asked whether anybody is there; who does not answer for as long is gone.",
    )
    lease_s: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="How long an agent may be away before its jobs move.",
    )

    patience_s: float = Field(
        default=600.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a job waits behind higher priorities before it goes with the highest.",
    )
    drain_s: float = Field(
        default=30.0,
        ge=0,
        allow_inf_nan=False,
        description="How long a fabric that is asked to stop waits for the jobs that run.",
    )

    gateway_url: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="For an agent: the gateway's URL, or a list of all gateways' URLs."
    )
    worker_token: str | None = Field(default=None, description="For an agent on its own: the worker token.")
    hold_results_s: float = Field(
        default=_DAY_S / 2,
        ge=0,
        le=_DAY_S,
        description="For an agent on its own: how long it holds a result, or waits for a payload, while the gateway is away or its disk is full; for all, while S3 is away.",
    )
    api_key: str | None = Field(
        default=None, description="The key with which the command line asks a gateway."
    )
    decision_log: Path | None = Field(
        default=None,
        description="A file that the gateway adds every decision of its scheduler to, for `edif replay`.",
    )
    faults: tuple[str, ...] = Field(
        default=(), description="For tests only: points at which a process kills itself, each NAME:COUNT."
    )
    log_json: bool = Field(default_factory=lambda: not sys.stderr.isatty(), description="Logs as JSON lines.")

    @field_validator("blobs")
    @classmethod
    def _is_bucket(cls, value: str | None) -> str | None:
        if not value:
            return None
        if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.-]+)*/?", value):
            raise ValueError("must be s3://BUCKET or s3://BUCKET/PREFIX, in letters, digits and _.-")
        return value.rstrip("/")

    @field_validator("public_url", "hub_upstream", "blobs_endpoint")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        return None if value is None else _url(value)

    @field_validator("gateway_url", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if isinstance(value, str):
            return msgspec.json.decode(value) if value.startswith("[") else (value,) if value else ()
        return value

    @field_validator("gateway_url")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_url(each) for each in value)

    @field_validator("record_store")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_networks(value)
        return value

    @field_validator("faults")
    @classmethod
    def _are_fault_points(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            parse_fault(each)
        return value

    @field_validator("tls_cert", "tls_key", "tls_ca", "blobs_credentials", "blobs_ca", "decision_log")
    @classmethod
    def _from_here(cls, value: Path | None) -> Path | None:
        """A path as the person meant it, for services that work in another folder."""
        return None if value is None else value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, toml_file=_config_file)
        return init_settings, env_settings, toml

    def as_environment(self) -> dict[str, str]:
        """These settings as ``EDIF_*`` variables, for a child process to read."""
        variables = {}
        for name, value in self.model_dump(mode="json").items():
            if isinstance(getattr(self, name), SecretStr):
                variables[f"EDIF_{name.upper()}"] = getattr(self, name).get_secret_value()
            elif value is not None:
                text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
                variables[f"EDIF_{name.upper()}"] = text
        return variables


def _url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value.rstrip("/")


_config_file: Path | None = None


def load(config: Path | None, **flags: Any) -> Settings:
    """The settings from all sources; flags that are None do not count.

    Raises:
        SetupError: a file that cannot be read, or a setting that does not fit.
    """
    global _config_file
    if config is None and Path("edif.toml").is_file():
        config = Path("edif.toml")
    if config is not None and not config.is_file():
        raise SetupError(errors.CONFIG_INVALID, f"The configuration file {str(config)!r} does not exist.")
    _config_file = config
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise _refusal(error, config) from error
    except ValueError as error:
        raise SetupError(errors.CONFIG_INVALID, f"The configuration cannot be read: {error}.") from error


def _refusal(error: ValidationError, config: Path | None) -> SetupError:
    """What is said of the first setting that does not fit."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return SetupError(errors.CONFIG_INVALID, f"The setting {name!r} does not fit: {first['msg']}.")
    fields = Settings.model_fields if len(first["loc"]) == 1 else DeploymentSettings.model_fields
    alike = difflib.get_close_matches(str(first["loc"][-1]), fields, 1)
    # Of the sources only the file can hold names that nobody asked for.
    return SetupError(
        errors.CONFIG_INVALID,
        f"There is no setting {name!r}, which stands in {str(config)!r}.",
        (f"Did you mean {alike[0]!r}? " if alike else "") + errors.CONFIG_INVALID.next_step,
    )


@dataclass(frozen=True, slots=True)
class ClientVariables:
    """The fabric that programs of this account use, and their key, as ``edif.connect`` finds them too."""

    url: str | None
    key: str | None

    @classmethod
    def read(cls) -> Self:
        return cls(_first("EDIF_URL", "NDIF_HOST"), _first("EDIF_API_KEY", "NDIF_API_KEY"))

    def without_url(self) -> Self:
        return replace(self, url=None)


def _first(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)  # noqa: TID251


def environment() -> dict[str, str]:
    """The process environment without eDIF's own variables, to pass on to child processes."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EDIF_")}  # noqa: TID251
