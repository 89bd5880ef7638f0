"""Signed links: a URL that opens one blob for one purpose until a time.

A store that is reached by its own URL, as S3 is, signs its own (:meth:`edif.blobs.s3_blobs.S3Blobs.link`). For one that is
not, the gateway signs paths below its own URL. The signature is an HMAC-SHA256 over purpose, blob name and expiry with the fabric's link key, so a link can
be checked without a look-up and cannot be bent to another blob or another time.
"""

import hmac
import re
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from edif.core import errors
from edif.core.errors import AuthRefused

PREFIX = "/edif/v1/blobs"


class Links(Protocol):
    """Who makes the links by which blobs are fetched."""

    async def link(self, name: str, valid_s: float) -> str:
        """For so many seconds: a whole URL, or a path below the gateway's base URL."""
        ...


@dataclass(frozen=True, slots=True)
class LinkSigner:
    """Makes and checks links with one secret key."""

    key: bytes

    async def link(self, name: str, valid_s: float) -> str:
        return self.path("get", name, time.time() + valid_s)

    def path(self, purpose: str, name: str, expires_at: float) -> str:
        """The path below the gateway's base URL. ``purpose`` is ``get`` or ``put``."""
        expires = int(expires_at)
        return f"{PREFIX}/{name}?purpose={purpose}&expires={expires}&signature={self._sign(purpose, name, expires)}"

    def check(self, purpose: str, name: str, expires: str, signature: str, now: float) -> None:
        """
        Raises:
            AuthRefused: the link was changed, is for something else, or has expired.
        """
        if not re.fullmatch(r"[1-9][0-9]{0,11}", expires) or not hmac.compare_digest(
            self._sign(purpose, name, int(expires)).encode(), signature.encode()
        ):
            raise AuthRefused(errors.LINK_INVALID, "This link is not one that the fabric has signed.")
        if now > int(expires):
            raise AuthRefused(errors.LINK_INVALID, "This link has expired.")

    def _sign(self, purpose: str, name: str, expires: int) -> str:
        message = f"{purpose}\n{name}\n{expires}".encode()
        return hmac.new(self.key, message, sha256).hexdigest()
