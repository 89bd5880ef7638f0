"""Where records, payloads and results are."""

import re
from pathlib import Path

from pydantic import BaseModel, Field, SecretStr, field_validator

from edif.settings.kinds import OwnPath, Url


class Stores(BaseModel):
    data: Path = Field(default=Path("edif-data"), description="The data folder: records, blobs, secrets.")
    record_store: SecretStr | None = Field(
        default=None,
        description="A PostgreSQL database for the records, `postgresql://...`; else SQLite in the data folder.",
    )
    blobs: str | None = Field(
        default=None,
        description="An S3 bucket for payloads and results, `s3://BUCKET/PREFIX`; else a folder in the data folder.",
    )
    blobs_endpoint: Url | None = Field(
        default=None, description="The URL of the S3 service, as clients and nodes reach it; else Amazon's."
    )
    blobs_region: str | None = Field(default=None, description="The bucket's region; else `us-east-1`.")
    blobs_credentials: OwnPath | None = Field(
        default=None,
        description="A file with the S3 keys, as AWS tools write it; else the AWS_* variables, or the machine's own role.",
    )
    blobs_ca: OwnPath | None = Field(
        default=None,
        description="Authorities (PEM) that may vouch for the S3 service, beside the system's.",
    )
    standby: bool = Field(
        default=False, description="Wait while another gateway leads, and take over when it is gone."
    )

    @field_validator("blobs")
    @classmethod
    def _is_bucket(cls, value: str | None) -> str | None:
        if not value:
            return None
        if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.-]+)*/?", value):
            raise ValueError("must be s3://BUCKET or s3://BUCKET/PREFIX, in letters, digits and _.-")
        return value.rstrip("/")

    @field_validator("record_store")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return value
