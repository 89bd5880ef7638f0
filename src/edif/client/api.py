"""The gateway's HTTP routes on connections that are kept, each request repeated until it has an answer."""

from typing import Any
from uuid import uuid4

import httpx
import msgspec

from edif.client.lines import Lines
from edif.client.retrying import Patience, Say, told
from edif.client.shared_http import SharedHttp
from edif.core import errors
from edif.core.errors import EdifError
from edif.wire.packed import READS, READS_HEADER

PATIENCE_S = 600.0  # a gateway's restart, an upgrade, a way home with the laptop closed
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_PASSING = frozenset({502, 503, 504})  # answers that say nothing about the request itself


class Api:
    """
    Args:
        url: the gateway's, without a trailing slash.
        versions: what this client is, as headers of a request.
        say: is told what is waited for.
    """

    def __init__(self, url: str, key: str | None, versions: dict[str, str], say: Say) -> None:
        self.url = url
        self.tls = httpx.create_ssl_context()  # takes 20 ms: made once, for all connections
        self._http = SharedHttp(url, verify=self.tls, timeout=_TIMEOUT)
        self.lines = Lines(self._http, self.tls)
        self._headers = {READS_HEADER: READS, **({"ndif-api-key": key} if key else {})}
        self._versions = versions
        self._say = say

    def close(self) -> None:
        """No more requests; those under way are not disturbed, and not repeated."""
        self._http.close()
        self.lines.close()

    def check_open(self) -> None:
        """
        Raises:
            EdifError: the connection was closed.
        """
        self._http.check_open()

    def get(self, path: str, *, patience_s: float = PATIENCE_S, **params: Any) -> Any:
        """
        Raises:
            EdifError: the gateway refuses, or did not answer for ``patience_s``.
        """
        answer, _ = self._call(
            "GET", path, Patience("Asking the fabric", self._say, patience_s), params=params
        )
        return _json(answer)

    def cancel(self, job_id: str) -> None:
        patience = Patience("Cancelling the job", self._say, PATIENCE_S)
        self._call("POST", f"/edif/v1/jobs/{job_id}/cancel", patience)

    def revoke_links(self, job_id: str) -> None:
        patience = Patience("Revoking links", self._say, PATIENCE_S)
        self._call("POST", f"/edif/v1/jobs/{job_id}/revoke-links", patience)

    def delete_result(self, job_id: str) -> None:
        patience = Patience("Deleting the result", self._say, PATIENCE_S)
        self._call("DELETE", f"/edif/v1/jobs/{job_id}/result", patience)

    def submit(self, envelope: dict[str, Any], blob: bytes) -> tuple[dict[str, Any], bool]:
        """Hand in a job, once however often it has to be sent.

        Returns:
            The first status, and whether it surely comes from the first sending: else the job may be known by it already, and
            tell its news elsewhere.
        """
        key = {"idempotency-key": uuid4().hex}
        patience = Patience("Sending the trace", self._say, PATIENCE_S)
        session = envelope.pop("session_id")
        for session_id in (session, ""):
            try:
                answer, first = self._call(
                    "POST",
                    "/request",
                    patience,
                    data={"data": msgspec.json.encode({**envelope, "session_id": session_id}).decode()},
                    files={"blob": ("request", blob, "application/octet-stream")},
                    headers={**self._headers, **self._versions, **key},
                )
            except EdifError as error:
                if error.kind is not errors.SESSION_UNKNOWN or not session_id:
                    raise
                continue  # the gateway was started anew: the job is followed on the next socket
            return _json(answer), first and session_id != ""
        raise AssertionError("a request without a session is never refused for its session")

    def _call(
        self, method: str, path: str, patience: Patience, **request: Any
    ) -> tuple[httpx.Response, bool]:
        request.setdefault("headers", self._headers)
        first = True
        while True:
            try:
                answer = self._http.request(method, f"{self.url}{path}", **request)
            except httpx.TransportError as error:
                reason, at_least_s = told(error), 0.0
            else:
                refusal = _refusal(answer)
                if refusal is None:
                    patience.progress()
                    return answer, first
                if not _passes(answer, refusal):
                    raise refusal
                reason, at_least_s = refusal.sentence.rstrip("."), _retry_after_s(answer)
            first = False
            patience.wait(reason, at_least_s)


def _refusal(answer: httpx.Response) -> EdifError | None:
    if not answer.is_error:
        return None
    return errors.read(answer.content, f"{answer.url.host} answered HTTP {answer.status_code}.")


def _passes(answer: httpx.Response, refusal: EdifError) -> bool:
    return answer.status_code in _PASSING or refusal.kind is errors.RATE_LIMITED


def _retry_after_s(answer: httpx.Response) -> float:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise EdifError(
            errors.FABRIC_UNREACHABLE, f"What answers at {answer.url} is no fabric: its answer is no JSON."
        ) from error
