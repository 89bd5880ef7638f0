"""Every error that a person can meet, in one tree.

    EdifError
    ├── Refused            the request was not accepted; nothing was recorded
    │   ├── AuthRefused    who asks is unknown or may not
    │   ├── NotFound       what is asked for does not exist, or belongs to someone else
    │   └── OverLimit      accepted in principle, but a limit stands against it
    ├── StoreUnavailable   the record store cannot be used now
    │   └── LeadLost       another gateway leads the fabric
    ├── BlobsUnavailable   the store of payloads and results cannot be used now
    ├── JobFailed          an accepted job ended without a result
    └── SetupError         the fabric cannot start or work as configured

Each kind of failure is one :class:`ErrorCode`: a stable code (programs match on it, never on text), the
HTTP status it travels with, and the next step for its reader. ``docs/errors.md`` lists all of them; a test
compares the two.
"""

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """A stable name for one kind of failure, and what its reader can do about it."""

    code: str
    http_status: int
    next_step: str


class EdifError(Exception):
    """A failure with a code, one sentence for its reader, and a next step.

    Args:
        kind: the stable code with its HTTP status and default next step.
        sentence: what happened and why, for the person who reads it; no internals.
        next_step: replaces the default next step when the case allows a more exact one.
    """

    def __init__(self, kind: ErrorCode, sentence: str, next_step: str | None = None) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence
        self.next_step = kind.next_step if next_step is None else next_step

    @property
    def code(self) -> str:
        return self.kind.code

    @property
    def detail(self) -> str:
        """The text a client displays: what happened, what to do, and the code to look up."""
        return " ".join(part for part in (self.sentence, self.next_step, f"[{self.code}]") if part)

    def __str__(self) -> str:
        return self.detail


class Refused(EdifError):
    """The request was not accepted; nothing was recorded."""


class AuthRefused(Refused):
    """Who asks is unknown, or may not do this."""


class NotFound(Refused):
    """What is asked for does not exist, or belongs to someone else."""


class OverLimit(Refused):
    """A limit stands against the request.

    Args:
        retry_after_s: when it no longer does, if that is known; whole seconds from now.
    """

    def __init__(
        self,
        kind: ErrorCode,
        sentence: str,
        next_step: str | None = None,
        *,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(kind, sentence, next_step)
        self.retry_after_s = retry_after_s


class JobFailed(EdifError):
    """An accepted job ended without a result."""


class StoreUnavailable(EdifError):
    """The record store cannot be used now.

    Unless ``in_doubt``, what was asked for did not happen. It is in doubt when the connection to the database
    ended while a commit was on its way; every write may then be asked for again, and answers as if the first had
    been heard.
    """

    def __init__(
        self, kind: ErrorCode, sentence: str, next_step: str | None = None, *, in_doubt: bool = False
    ) -> None:
        super().__init__(kind, sentence, next_step)
        self.in_doubt = in_doubt


class LeadLost(StoreUnavailable):
    """Another gateway leads the fabric: this one can write nothing."""


class BlobsUnavailable(EdifError):
    """The store of payloads and results cannot be used now."""


class SetupError(EdifError):
    """The fabric cannot start, or cannot work as it is configured."""


_CATALOGUE: dict[str, ErrorCode] = {}


def _kind(code: str, http_status: int, next_step: str) -> ErrorCode:
    kind = ErrorCode(code, http_status, next_step)
    _CATALOGUE[code] = kind
    return kind


def catalogue() -> dict[str, ErrorCode]:
    """All error codes of the fabric, by code."""
    return dict(_CATALOGUE)


def read(body: bytes, otherwise: str) -> EdifError:
    """The error that a gateway's answer holds.

    Args:
        otherwise: the sentence for an answer that is none of a gateway's.
    """
    try:
        told = json.loads(body)
        kind = _CATALOGUE.get(told["code"], INTERNAL)
        return EdifError(kind, str(told["detail"]).removesuffix(f" [{kind.code}]"), "")
    except (ValueError, KeyError, TypeError):
        return EdifError(INTERNAL, otherwise)


# -- who asks ------------------------------------------------------------------------------------------
KEY_MISSING = _kind(
    "key_missing", 401, "Set NDIF_API_KEY to the key your operator gave you, or call nnsight.login()."
)
KEY_UNKNOWN = _kind(
    "key_unknown", 401, "Check the key for typing errors, or ask your operator for a new one."
)
KEY_EXPIRED = _kind("key_expired", 401, "Ask your operator for a new key: `edif keys rotate KEY_ID`.")
KEY_REVOKED = _kind("key_revoked", 401, "Ask your operator for a new key: `edif keys create --user NAME`.")
ROLE_TOO_LOW = _kind("role_too_low", 403, "Ask an operator of this fabric to do it, or to give you the role.")
LINK_INVALID = _kind("link_invalid", 403, "Ask for the job's status again; it carries a fresh link.")

# -- the envelope --------------------------------------------------------------------------------------
BODY_NOT_MULTIPART = _kind(
    "body_not_multipart", 415, "Send multipart/form-data with the field `data` and the file `blob`."
)
BODY_TRUNCATED = _kind("body_truncated", 400, "The upload broke off; send it again.")
BODY_TOO_LARGE = _kind(
    "body_too_large", 413, "Ship less by value: load data inside the trace, or split it into several traces."
)
ENVELOPE_INVALID = _kind(
    "envelope_invalid", 422, "Use an nnsight 0.8 client: pip install 'nnsight==0.8.1' 'transformers<5.23'."
)
PAYLOAD_NOT_ZSTD = _kind(
    "payload_not_zstd", 400, "Send the payload as one zstd frame, or set compress to false."
)
CLIENT_TOO_OLD = _kind("client_too_old", 400, "Run: pip install 'nnsight==0.8.1' 'transformers<5.23'")
CLIENT_UNSUPPORTED = _kind("client_unsupported", 400, "Run: pip install 'nnsight==0.8.1' 'transformers<5.23'")
PYTHON_UNSUPPORTED = _kind("python_unsupported", 400, "Use Python 3.10 to 3.13 on the client.")
SESSION_UNKNOWN = _kind(
    "session_unknown", 409, "The status socket is gone; run the trace again, which opens a new one."
)
MODEL_KEY_INVALID = _kind(
    "model_key_invalid", 422, "Wrap the model with nnsight.LanguageModel or TransformersModel."
)
MODEL_NOT_SERVED = _kind(
    "model_not_served", 404, "See nnsight.status() for what is served, or ask your operator."
)
ENV_NOT_ALLOWED = _kind(
    "env_not_allowed", 400, "Use one of the adapters or settings that this deployment allows."
)
STORAGE_LOW = _kind(
    "storage_low", 507, "Wait until the operator has freed space; jobs already accepted will finish."
)
STORAGE_FULL = _kind(
    "storage_full", 507, "Tell your operator that the data folder's disk is full, then run it again."
)
STORE_UNREACHABLE = _kind(
    "store_unreachable", 503, "Wait a moment and try again; jobs that were accepted are not lost."
)
BLOBS_UNREACHABLE = _kind(
    "blobs_unreachable", 503, "Wait a moment and try again; jobs that were accepted are not lost."
)
BLOBS_MISSING = _kind(
    "blobs_missing", 503, "Operator: make the bucket, or correct `blobs` and `blobs_endpoint`."
)
BLOBS_DENIED = _kind(
    "blobs_denied",
    503,
    "Operator: check the S3 keys, and that they may list, read, write and delete in this bucket.",
)
BLOBS_CLOCK = _kind("blobs_clock", 503, "Operator: set this machine's clock, best by a time service.")
BLOBS_AWAY = (BLOBS_UNREACHABLE, BLOBS_MISSING, BLOBS_DENIED, BLOBS_CLOCK)
"""Why the store of payloads and results cannot be used; whoever sees to it can end each of them."""
LEAD_LOST = _kind("lead_lost", 503, "Try again: the gateway that leads now takes over the address.")
REQUEST_INVALID = _kind("request_invalid", 422, "See docs/protocol.md for the form of this request.")
QUOTA_USED_UP = _kind(
    "quota_used_up", 429, "If you need more, ask your operator, who sets it with `edif quota set`."
)
REQUEST_MALFORMED = _kind("request_malformed", 400, "Speak HTTP/1.1 to this port, and https if it has TLS.")
REQUEST_TIMEOUT = _kind("request_timeout", 408, "Send it again, on a connection that is not so slow.")
URL_TOO_LONG = _kind("url_too_long", 414, "Shorten the address; no route of a fabric needs a long one.")
HEADERS_TOO_LARGE = _kind("headers_too_large", 431, "Send fewer or shorter headers; cookies are not needed.")
RATE_LIMITED = _kind("rate_limited", 429, "Wait as long as `Retry-After` says and ask again, less often.")
CONNECTIONS_FULL = _kind(
    "connections_full", 503, "Close connections that you do not need, wait a second and try again."
)

# -- what is asked for ---------------------------------------------------------------------------------
JOB_UNKNOWN = _kind("job_unknown", 404, "Check the id, and that you use the key that sent the job.")
RESULT_GONE = _kind(
    "result_gone", 410, "It was deleted, after the retention time or by its owner; run the job again."
)
KEPT_GONE = _kind(
    "kept_gone", 410, "They go with the result of the job that kept them; run that job again, with edif.keep."
)
RESULT_PACKED = _kind("result_packed", 406, "Call edif.connect(url, key), then edif.job(ID).result().")
RANGE_OUTSIDE = _kind("range_outside", 416, "Ask with HEAD how long it is; what you have may be all of it.")
ROUTE_UNKNOWN = _kind("route_unknown", 404, "See docs/protocol.md for the routes of a fabric.")
STATE_CONFLICT = _kind("state_conflict", 409, "Look at its present state and try again.")

# -- the Hub mirror ------------------------------------------------------------------------------------
HUB_NO_WEIGHTS = _kind(
    "hub_no_weights", 403, "Weights stay on the fabric; use remote=True instead of loading the model locally."
)
HUB_REPO_UNKNOWN = _kind(
    "hub_repo_unknown", 404, "Unset HF_ENDPOINT to use the public Hub, or ask your operator."
)
HUB_ENTRY_UNKNOWN = _kind(
    "hub_entry_unknown", 404, "The repository has no such file; most clients go on without."
)
HUB_UPSTREAM_FAILED = _kind("hub_upstream_failed", 502, "The upstream Hub did not answer; try again later.")

# -- how a job can fail --------------------------------------------------------------------------------
USER_CODE = _kind("user_code", 200, "")
PAYLOAD_CORRUPT = _kind(
    "payload_corrupt", 200, "Send it again; if it happens twice, tell your operator the job's id."
)
PAYLOAD_BOMB = _kind("payload_bomb", 413, "Ship less by value: build large data inside the trace.")
PAYLOAD_UNREADABLE = _kind(
    "payload_unreadable", 200, "Compare both sides with print(nnsight.compare()), then send it again."
)
PAYLOAD_MISMATCH = _kind(
    "payload_mismatch", 200, "Build the client's model from the same repository and revision that is served."
)
RESULT_UNPICKLABLE = _kind(
    "result_unpicklable",
    200,
    "Save tensors, numbers, strings, lists or dicts: detach what holds a file or a model.",
)
RESULT_TOO_LARGE = _kind(
    "result_too_large", 200, "Save fewer or smaller tensors: slice them in the trace, or use .half()."
)
OUT_OF_MEMORY = _kind("out_of_memory", 200, "Use a smaller batch or shorter prompts, or save fewer tensors.")
CANNOT_SEAL = _kind(
    "cannot_seal", 200, "Tell your operator: `edif doctor` on the node says which walls are missing."
)
PROCESS_DIED = _kind(
    "process_died",
    200,
    "Look for what ends a process (memory, native code, os._exit); nobody else's job was touched.",
)
TIME_LIMIT = _kind(
    "time_limit", 200, "Split the work into several traces, or ask your operator for more time."
)
CANCELLED = _kind("cancelled", 200, "Run it again whenever you like.")
MODEL_LOAD_FAILED = _kind("model_load_failed", 200, "Tell your operator; the agent's log has the details.")
REPLICA_LOST = _kind(
    "replica_lost",
    200,
    "Look for what ends the process (memory, native code); if your code is sound, tell your operator.",
)
INTERNAL = _kind("internal", 500, "Tell your operator, with the time and the job's id.")

# -- in a client that is connected with edif.connect -----------------------------------------------------
FABRIC_UNREACHABLE = _kind(
    "fabric_unreachable", 503, "Check the address and your network, or ask your operator whether it runs."
)
RESULT_DAMAGED = _kind(
    "result_damaged", 502, "Ask for it again: job.result(); if it happens twice, tell your operator."
)
NOT_CONNECTED = _kind("not_connected", 500, "Call edif.connect(url, key) first.")

# -- setting up ----------------------------------------------------------------------------------------
PORT_TAKEN = _kind("port_taken", 500, "Choose another with --port, or stop the program that holds it.")
DATA_UNWRITABLE = _kind("data_unwritable", 500, "Choose another with --data, or change its owner.")
DATA_NEWER = _kind("data_newer", 500, "Upgrade eDIF, or restore the backup made before the upgrade.")
DATA_IN_USE = _kind("data_in_use", 500, "Stop the other fabric first, or choose another folder with --data.")
OPEN_WITHOUT_KEYS = _kind(
    "open_without_keys", 500, "Create a user first: `edif users add NAME` and `edif keys create --user NAME`."
)
BACKUP_IMPOSSIBLE = _kind("backup_impossible", 500, "Choose another file or folder, and run it again.")
RESTORE_IMPOSSIBLE = _kind("restore_impossible", 500, "Try an earlier backup.")
TLS_INVALID = _kind(
    "tls_invalid", 500, "Name PEM files that belong together and can be read: --tls-cert and --tls-key."
)
CONFIG_INVALID = _kind("config_invalid", 500, "See docs/configuration.md.")
GATEWAY_UNREACHABLE = _kind("gateway_unreachable", 500, "Start it with `edif serve`, or name it with --url.")
USER_EXISTS = _kind("user_exists", 409, "Choose another name, or list them with `edif users list`.")
USER_UNKNOWN = _kind("user_unknown", 404, "List the users with `edif users list`.")
GROUP_EXISTS = _kind("group_exists", 409, "Choose another name, or list them with `edif groups list`.")
GROUP_UNKNOWN = _kind(
    "group_unknown", 404, "Add it with `edif groups add NAME`, or list them with `edif groups list`."
)
AUDIT_BROKEN = _kind(
    "audit_broken", 500, "Keep the data folder as it is, and compare it with your last backup."
)
JOURNAL_UNREADABLE = _kind(
    "journal_unreadable", 500, "Name a file that a gateway of this version wrote with `decision_log`."
)
DECISIONS_DIFFER = _kind(
    "decisions_differ", 500, "Replay it with the version that wrote it; if it differs there too, report it."
)
KEY_ID_UNKNOWN = _kind("key_id_unknown", 404, "List the keys with `edif keys list`.")
WORKER_DEPENDENCY = _kind("worker_dependency", 500, "Run: pip install 'edif[all]'")
