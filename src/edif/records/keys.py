"""API keys: minted once, shown once, kept as a digest.

A key is ``edif_<id>_<secret>`` with 256 random bits, so one SHA-256 is enough to keep it safe: there is
nothing to guess that a slow hash would protect.
"""

import hashlib
import secrets

from edif.core.ids import UserName
from edif.core.users import ApiKey

PREFIX = "edif"


def mint(user: UserName, now: float, valid_s: float | None) -> tuple[str, ApiKey]:
    """A new key for ``user``: the secret to hand over, and the record to keep."""
    key_id = secrets.token_hex(4)
    secret = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    expires_at = None if valid_s is None else now + valid_s
    return secret, ApiKey(key_id, user, digest(secret), created_at=now, expires_at=expires_at)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
