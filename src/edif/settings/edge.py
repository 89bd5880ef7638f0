"""What listens to clients, and how much of each it takes."""

from pydantic import BaseModel, ByteSize, Field, field_validator

from edif.core.addresses import parse_networks
from edif.settings.kinds import OwnPath, Url


class Edge(BaseModel):
    host: str = Field(default="127.0.0.1", description="The address on which the gateway listens.")
    port: int = Field(default=8289, ge=0, le=65535, description="The gateway's port; 0 takes a free one.")
    public_url: Url | None = Field(
        default=None, description="The URL that clients use, if a proxy stands before."
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=(), description="Networks of proxies whose X-Forwarded-* headers are believed."
    )
    tls_cert: OwnPath | None = Field(
        default=None,
        description="The gateway's certificate and its chain (PEM); with `tls_key` it speaks TLS.",
    )
    tls_key: OwnPath | None = Field(default=None, description="The certificate's private key (PEM).")
    tls_ca: OwnPath | None = Field(
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

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_networks(value)
        return value
