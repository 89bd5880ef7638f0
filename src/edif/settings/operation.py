"""How the services speak with each other, wait for each other and stop."""

import sys
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, Field, field_validator
from pydantic_settings import NoDecode

from edif.faults import parse as parse_fault
from edif.settings.kinds import OwnPath, url

_DAY_S = 24 * 3600.0


class Operation(BaseModel):
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
    decision_log: OwnPath | None = Field(
        default=None,
        description="A file that the gateway adds every decision of its scheduler to, for `edif replay`.",
    )
    faults: tuple[str, ...] = Field(
        default=(), description="For tests only: points at which a process kills itself, each NAME:COUNT."
    )
    log_json: bool = Field(default_factory=lambda: not sys.stderr.isatty(), description="Logs as JSON lines.")

    @field_validator("gateway_url", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if isinstance(value, str):
            return msgspec.json.decode(value) if value.startswith("[") else (value,) if value else ()
        return value

    @field_validator("gateway_url")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(url(each) for each in value)

    @field_validator("faults")
    @classmethod
    def _are_fault_points(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            parse_fault(each)
        return value
