"""Who a request comes from: a key, the operator's token of this machine, or nobody on an open fabric.

A fabric without users is open to this machine alone. It then answers only requests that name a loopback host
and come from no web page, for otherwise any page that the user visits could send it code to run.
"""

import asyncio
import contextlib
import hmac
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from cachetools import LRUCache, TTLCache
from starlette.requests import HTTPConnection

from edif.core import errors
from edif.core.addresses import Network, is_loopback
from edif.core.audit import actor_user
from edif.core.errors import AuthRefused, StoreUnavailable
from edif.core.ids import ANONYMOUS, LOCAL, UserName
from edif.core.users import ApiKey, Identity, Role, User
from edif.gateway.callers import caller, know_caller
from edif.gateway.rates import Pace, RateLimiter
from edif.records.keys import digest
from edif.records.store import RecordStore

KEY_HEADER = "ndif-api-key"
_CACHE_S = 1.0
_CACHE_ENTRIES = 10_000
_SIGN_IN_S = 3600.0
_AT_ONCE = 20  # requests of one user; a trace takes three

LOCAL_OPERATOR = Identity(LOCAL, Role.OPERATOR)
_NOBODY = Identity(ANONYMOUS, Role.OPERATOR)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Secrets of this fabric that stand in files of its data folder.

    Attributes:
        operator: lets the command line of the same machine act as an operator.
        worker: lets node agents join.
    """

    operator: str
    worker: str


@dataclass(frozen=True, slots=True)
class AuthRates:
    """
    Attributes:
        requests_per_s: of one user.
        refusals_per_s: of one address, with a wrong key or none.
        proxies: networks of proxies that name the client's address.
    """

    requests_per_s: float
    refusals_per_s: float
    proxies: tuple[Network, ...] = ()


class Authenticator:
    """Establishes identities, and how often each may ask; what the record store says is believed for one second.

    Whoever is over a limit is refused before the record store is asked and before a body is read. An address that
    has sent too many wrong keys is still let in with a key that was good before: its neighbours are not locked out.

    Args:
        loopback_only: whether the gateway listens on loopback addresses alone.
    """

    def __init__(
        self, records: RecordStore, tokens: Tokens, rates: AuthRates, *, loopback_only: bool
    ) -> None:
        self._records = records
        self._tokens = tokens
        self._proxies = rates.proxies
        self._loopback_only = loopback_only
        self._any_user: tuple[float, bool] = (0.0, False)
        self._requests = RateLimiter("requests", rates.requests_per_s)
        self._turns = Pace(rates.requests_per_s, _AT_ONCE)
        self._refusals = RateLimiter("requests with a wrong key or none", rates.refusals_per_s)
        self._good: TTLCache[str, Identity] = TTLCache(_CACHE_ENTRIES, _CACHE_S, _now)
        self._bad: TTLCache[str, AuthRefused] = TTLCache(_CACHE_ENTRIES, _CACHE_S, _now)
        self._once_good: LRUCache[str, None] = LRUCache(_CACHE_ENTRIES)
        self._signed_in: TTLCache[str, None] = TTLCache(_CACHE_ENTRIES, _SIGN_IN_S, _now)

    async def open_to_all(self, *, surely: bool = False) -> bool:
        """Whether no user exists, so that no key is needed.

        Args:
            surely: ask the record store also if it was asked a moment ago.
        """
        now = time.monotonic()
        if now > self._any_user[0] or (surely and not self._any_user[1]):
            self._any_user = (now + _CACHE_S, await self._records.any_user())
        return not self._any_user[1]

    async def identify(self, connection: HTTPConnection) -> Identity:
        """The identity behind a request or socket, which is counted as one of theirs.

        Who sends many at once waits here, so that others have their turn between them.

        Raises:
            AuthRefused: no key where one is needed, or one that does not count.
            OverLimit: this user asks, or this address fails, too often.
        """
        secret = connection.headers.get(KEY_HEADER) or _bearer(connection)
        if secret and hmac.compare_digest(secret.encode(), self._tokens.operator.encode()):
            know_caller(connection, None)
            return LOCAL_OPERATOR
        # Who has a key may be the first user, added this very moment: their jobs are theirs, and sealed, from the first one on.
        if await self.open_to_all(surely=bool(secret)):
            self._check_open_request(connection)
            know_caller(connection, None)
            return _NOBODY
        if not secret:
            raise self._counted(connection, AuthRefused(errors.KEY_MISSING, "This fabric needs an API key."))
        identity = await self._by_key(connection, digest(secret))
        know_caller(connection, identity.name)
        self._requests.take(identity.name, time.monotonic())
        await self.turn(identity.name)
        return identity

    async def turn(self, user: UserName) -> None:
        """Wait until it is this user's turn: at once, unless they ask for much at a time."""
        wait_s = self._turns.wait_s(user, time.monotonic())
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    async def identify_operator(self, connection: HTTPConnection) -> Identity:
        """
        Raises:
            AuthRefused: as :meth:`identify`, or the person is no operator.
            OverLimit: as :meth:`identify`.
        """
        identity = await self.identify(connection)
        if not identity.operator:
            raise AuthRefused(errors.ROLE_TOO_LOW, "Only an operator of this fabric may do this.")
        return identity

    def check_worker(self, connection: HTTPConnection) -> None:
        """
        Raises:
            AuthRefused: the caller does not hold the worker token.
            OverLimit: this address fails too often.
        """
        secret = _bearer(connection) or ""
        if not secret or not hmac.compare_digest(secret.encode(), self._tokens.worker.encode()):
            refused = AuthRefused(
                errors.KEY_UNKNOWN, "This route is for node agents.", "Start the agent with the worker token."
            )
            raise self._counted(connection, refused)

    def _check_open_request(self, connection: HTTPConnection) -> None:
        if not self._loopback_only:
            raise AuthRefused(
                errors.KEY_MISSING,
                "This fabric has no users yet and is not on loopback alone.",
                "Ask your operator.",
            )
        origin = connection.headers.get("origin")
        if origin is not None and not is_loopback(_host_of(origin)):
            raise AuthRefused(
                errors.KEY_MISSING,
                "A fabric without users takes no requests from web pages.",
                "Create a user first.",
            )
        host = _host_of(f"//{connection.headers.get('host', '')}")
        if not is_loopback(host):
            raise AuthRefused(
                errors.KEY_MISSING,
                f"A fabric without users answers to loopback names only, not to {host[:80]!r}.",
                "Use http://127.0.0.1:PORT, or create a user first.",
            )

    def _counted(self, connection: HTTPConnection, refused: AuthRefused) -> AuthRefused:
        """The refusal, counted against where it comes from.

        Raises:
            OverLimit: there were too many of them.
        """
        self._refusals.take(caller(connection, self._proxies), time.monotonic())
        return refused

    async def _by_key(self, connection: HTTPConnection, key_digest: str) -> Identity:
        known = self._good.get(key_digest)
        if known is not None:
            return known
        refused = self._bad.get(key_digest)
        if refused is None:
            if key_digest not in self._once_good:
                self._refusals.check(caller(connection, self._proxies), time.monotonic())
            found = await self._look_up(key_digest)
            if isinstance(found, Identity):
                self._good[key_digest] = found
                self._once_good[key_digest] = None
                return found
            refused = self._bad[key_digest] = found
        raise self._counted(connection, AuthRefused(refused.kind, refused.sentence, refused.next_step))

    async def _look_up(self, key_digest: str) -> Identity | AuthRefused:
        key = await self._records.key_by_digest(key_digest)
        if key is None:
            return AuthRefused(errors.KEY_UNKNOWN, "This fabric does not know the API key.")
        if key.revoked_at is not None:
            return AuthRefused(errors.KEY_REVOKED, "This API key was revoked.")
        if not key.usable(time.time()):
            return AuthRefused(errors.KEY_EXPIRED, "This API key has expired.")
        user = await self._records.user(key.user)
        if user is None:
            return AuthRefused(errors.KEY_REVOKED, "The user of this API key was removed.")
        await self._note_sign_in(key, user)
        return Identity(user.name, user.role, user.email, user.id)

    async def _note_sign_in(self, key: ApiKey, user: User) -> None:
        """In the audit log, once an hour for each key that is used. Whoever cannot be noted now is noted later."""
        if key.id in self._signed_in:
            return
        with contextlib.suppress(StoreUnavailable):
            await self._records.note("user.signed_in", user.id, by=actor_user(user.id), key=key.id)
            self._signed_in[key.id] = None


def _now() -> float:
    return time.monotonic()


def _host_of(url: str) -> str:
    """The host in a URL that somebody sent; empty if it is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _bearer(connection: HTTPConnection) -> str | None:
    scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
    return secret.strip() or None if scheme.lower() == "bearer" else None
