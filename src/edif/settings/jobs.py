"""What one job may take, where it runs, and with whom."""

from pydantic import BaseModel, ByteSize, Field

from edif.core.limits import GIB, MIB, Isolation, Merge, Padding, SendFiles


class Jobs(BaseModel):
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
