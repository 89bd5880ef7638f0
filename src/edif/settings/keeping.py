"""What is kept, for how long, and when there is no room for more."""

from pydantic import BaseModel, ByteSize, Field

from edif.core.limits import GIB

_DAY_S = 24 * 3600.0


class Keeping(BaseModel):
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
