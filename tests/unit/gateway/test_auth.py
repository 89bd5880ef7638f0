"""Who a request comes from, with real records and real request headers."""

from collections.abc import Callable
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings
from starlette.requests import HTTPConnection

from edif.core import errors
from edif.core.addresses import is_loopback, parse_networks
from edif.core.errors import AuthRefused, ErrorCode, OverLimit
from edif.core.ids import ANONYMOUS, UserName
from edif.core.users import Identity, Role, User
from edif.gateway import auth as auth_module
from edif.gateway.auth import LOCAL_OPERATOR, Authenticator, AuthRates, Tokens
from edif.records.keys import mint
from edif.records.sql_store import SqlRecordStore
from tests.unit.gateway.conftest import ADA, RATES, START, TOKENS, add_key

Clock = SimpleNamespace
MakeAuth = Callable[..., Authenticator]


def connection(host: str | None = "127.0.0.1:8289", **headers: str) -> HTTPConnection:
    """A request as the gateway's server hands it over."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if host is not None:
        named["host"] = host
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in named.items()]
    return HTTPConnection({"type": "http", "headers": raw})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The authenticator's clock: ``clock.now`` is both its monotonic and its wall time."""
    clock = SimpleNamespace(now=START)
    fake = SimpleNamespace(monotonic=lambda: clock.now, time=lambda: clock.now)
    monkeypatch.setattr(auth_module, "time", fake)
    return clock


@pytest.fixture
def auth(records: SqlRecordStore, clock: Clock) -> Authenticator:
    return Authenticator(records, TOKENS, RATES, loopback_only=True)


async def refusal(auth: Authenticator, request: HTTPConnection) -> ErrorCode:
    with pytest.raises(AuthRefused) as refused:
        await auth.identify(request)
    return refused.value.kind


# -- turns ---------------------------------------------------------------------------------------------
async def test_who_sends_many_at_once_waits_for_a_turn_and_others_do_not(
    records: SqlRecordStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(auth_module.asyncio, "sleep", note)
    auth = Authenticator(records, TOKENS, AuthRates(8.0, 1e6), loopback_only=True)
    many, _ = await add_key(records, ADA)
    one, _ = await add_key(records, UserName("bob"))
    for _ in range(23):
        await auth.identify(connection(ndif_api_key=many))
    assert waits == [0.125, 0.25, 0.375]
    await auth.identify(connection(ndif_api_key=one))
    await auth.identify(connection(ndif_api_key=TOKENS.operator))
    assert len(waits) == 3


# -- no users: open to this machine --------------------------------------------------------------------
@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8289", "127.0.0.1", "127.8.9.1", "localhost", "LOCALHOST:80", "[::1]:8289", "x.localhost"],
)
async def test_without_users_this_machine_needs_no_key(auth: Authenticator, host: str) -> None:
    identity = await auth.identify(connection(host))
    assert identity == Identity(ANONYMOUS, Role.OPERATOR)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "fabric.example.org",
        "192.168.0.4:8289",
        "0.0.0.0",
        "[::]",
        "127.0.0.1.example.org",
        "localhost.example.org",
        "localhost.",
        "notlocalhost",
        "example.org#.localhost",
        "127.1",
        "2130706433",
        "127.0.0.1@example.org",
    ],
)
async def test_without_users_other_names_are_refused(auth: Authenticator, host: str | None) -> None:
    """A page may resolve its own name to 127.0.0.1; its browser still sends that name."""
    assert await refusal(auth, connection(host)) is errors.KEY_MISSING


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:9"])
async def test_without_users_pages_of_this_machine_are_answered(auth: Authenticator, origin: str) -> None:
    assert (await auth.identify(connection(origin=origin))).name == ANONYMOUS


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.org",
        "null",
        "",
        "file://",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org",
    ],
)
async def test_without_users_web_pages_are_refused(auth: Authenticator, origin: str) -> None:
    assert await refusal(auth, connection(origin=origin)) is errors.KEY_MISSING


async def test_without_users_a_gateway_beyond_loopback_answers_nobody(
    records: SqlRecordStore, clock: Clock
) -> None:
    exposed = Authenticator(records, TOKENS, RATES, loopback_only=False)
    assert await refusal(exposed, connection()) is errors.KEY_MISSING
    assert await exposed.identify(connection(ndif_api_key="operator_secret")) == LOCAL_OPERATOR


async def test_without_users_any_key_is_as_good_as_none(auth: Authenticator) -> None:
    """A client keeps its NDIF key in its settings; a fabric without users does not mind."""
    assert (await auth.identify(connection(ndif_api_key="from-elsewhere"))).name == ANONYMOUS
    request = connection("example.org", ndif_api_key="from-elsewhere")
    assert await refusal(auth, request) is errors.KEY_MISSING


@pytest.mark.parametrize("headers", [{"host": "[::1"}, {"host": "[x]"}, {"origin": "http://[::1"}])
async def test_header_that_is_no_address_is_refused(auth: Authenticator, headers: dict[str, str]) -> None:
    assert await refusal(auth, connection(**headers)) is errors.KEY_MISSING


# -- users ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("header", ["ndif_api_key", "authorization"])
async def test_key_identifies_its_user(auth: Authenticator, records: SqlRecordStore, header: str) -> None:
    secret, _ = await add_key(records, email="ada@example.org")
    value = secret if header == "ndif_api_key" else f"Bearer {secret}"
    identity = await auth.identify(connection("fabric.example.org", **{header: value}))
    user = await records.user(ADA)
    assert user is not None
    assert identity == Identity(ADA, Role.RESEARCHER, "ada@example.org", user.id)


async def test_with_users_web_pages_and_other_names_need_only_a_key(
    auth: Authenticator, records: SqlRecordStore
) -> None:
    secret, _ = await add_key(records)
    request = connection("fabric.example.org", origin="https://example.org", ndif_api_key=secret)
    assert (await auth.identify(request)).name == ADA


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ndif_api_key": ""},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer  "},
    ],
    ids=str,
)
async def test_with_users_a_key_is_needed_even_here(
    auth: Authenticator, records: SqlRecordStore, headers: dict[str, str]
) -> None:
    await add_key(records)
    assert await refusal(auth, connection(**headers)) is errors.KEY_MISSING


async def test_unknown_key_is_refused(auth: Authenticator, records: SqlRecordStore) -> None:
    secret, key_id = await add_key(records)
    for wrong in (secret + "x", secret[:-1], secret.upper(), key_id, "ü", "worker_secret"):
        assert await refusal(auth, connection(ndif_api_key=wrong)) is errors.KEY_UNKNOWN
    assert await refusal(auth, connection(authorization=f"Basic {secret}")) is errors.KEY_MISSING


async def test_clients_own_header_counts_before_the_bearer(
    auth: Authenticator, records: SqlRecordStore
) -> None:
    secret, _ = await add_key(records)
    request = connection(ndif_api_key="wrong", authorization=f"Bearer {secret}")
    assert await refusal(auth, request) is errors.KEY_UNKNOWN


async def test_key_expires(auth: Authenticator, records: SqlRecordStore, clock: Clock) -> None:
    secret, _ = await add_key(records, valid_s=10.0)
    request = connection(ndif_api_key=secret)
    clock.now = START + 9
    assert (await auth.identify(request)).name == ADA
    clock.now = START + 10.5
    assert await refusal(auth, request) is errors.KEY_EXPIRED


async def test_revoked_key_is_refused(auth: Authenticator, records: SqlRecordStore) -> None:
    secret, key_id = await add_key(records)
    await records.revoke_key(key_id, START)
    assert await refusal(auth, connection(ndif_api_key=secret)) is errors.KEY_REVOKED


async def test_key_of_a_removed_user_is_refused(auth: Authenticator, records: SqlRecordStore) -> None:
    secret, _ = await add_key(records)
    await add_key(records, UserName("bob"))
    await records.remove_user(ADA, START)
    assert await refusal(auth, connection(ndif_api_key=secret)) is errors.KEY_REVOKED


async def test_key_whose_user_never_was_is_refused(auth: Authenticator, records: SqlRecordStore) -> None:
    await add_key(records, UserName("bob"))
    secret, key = mint(ADA, START, None)
    await records.add_key(key)
    assert await refusal(auth, connection(ndif_api_key=secret)) is errors.KEY_REVOKED


async def test_fabric_whose_last_user_is_removed_is_open_to_this_machine_again(
    auth: Authenticator, records: SqlRecordStore, clock: Clock
) -> None:
    await add_key(records)
    assert not await auth.open_to_all()
    await records.remove_user(ADA, START)
    clock.now += 1.1
    assert await auth.open_to_all()


# -- what is believed for one second -------------------------------------------------------------------
async def test_revoked_key_counts_for_one_second_more_and_not_longer(
    auth: Authenticator, records: SqlRecordStore, clock: Clock
) -> None:
    secret, key_id = await add_key(records)
    request = connection(ndif_api_key=secret)
    await auth.identify(request)
    await records.revoke_key(key_id, START)
    clock.now = START + 0.99
    assert (await auth.identify(request)).name == ADA
    clock.now = START + 1.01
    assert await refusal(auth, request) is errors.KEY_REVOKED


async def test_refusal_is_believed_for_one_second_and_not_longer(
    auth: Authenticator, records: SqlRecordStore, clock: Clock
) -> None:
    await add_key(records, UserName("bob"))
    secret, key = mint(ADA, START, None)
    request = connection(ndif_api_key=secret)
    assert await refusal(auth, request) is errors.KEY_UNKNOWN
    await records.add_user(User(ADA, Role.RESEARCHER, START))
    await records.add_key(key)
    clock.now = START + 0.99
    assert await refusal(auth, request) is errors.KEY_UNKNOWN
    clock.now = START + 1.01
    assert (await auth.identify(request)).name == ADA


async def test_first_user_closes_the_fabric_within_one_second(
    auth: Authenticator, records: SqlRecordStore, clock: Clock
) -> None:
    await auth.identify(connection())
    await add_key(records)
    clock.now = START + 1.01
    assert await refusal(auth, connection()) is errors.KEY_MISSING


async def test_what_is_remembered_of_keys_is_bounded_and_guesses_push_out_no_good_key(
    records: SqlRecordStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_module, "_CACHE_ENTRIES", 50)
    auth = Authenticator(records, TOKENS, RATES, loopback_only=True)
    secret, _ = await add_key(records)
    assert (await auth.identify(connection(ndif_api_key=secret))).name == ADA
    asked = await count_look_ups(records, monkeypatch)
    for number in range(120):
        assert await refusal(auth, connection(ndif_api_key=f"guess{number}")) is errors.KEY_UNKNOWN
    assert len(auth._bad) == 50
    assert len(asked) == 120
    assert (await auth.identify(connection(ndif_api_key=secret))).name == ADA
    assert len(asked) == 120


async def count_look_ups(records: SqlRecordStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests that the record store is asked for from now on."""
    asked: list[str] = []
    look_up = records.key_by_digest

    async def counted(digest: str) -> object:
        asked.append(digest)
        return await look_up(digest)

    monkeypatch.setattr(records, "key_by_digest", counted)
    return asked


# -- how often -----------------------------------------------------------------------------------------
async def test_a_user_who_asks_too_often_is_told_so_and_others_are_not(
    records: SqlRecordStore, clock: Clock
) -> None:
    auth = Authenticator(records, TOKENS, AuthRates(2.0, 1e6), loopback_only=True)
    ada, _ = await add_key(records)
    again, _ = await add_key(records)
    bob, _ = await add_key(records, UserName("bob"))
    for key in (ada, again) * 5:
        await auth.identify(connection(ndif_api_key=key))
    for key in (ada, again):
        with pytest.raises(OverLimit, match="2 requests a second came from ada"):
            await auth.identify(connection(ndif_api_key=key))
    assert (await auth.identify(connection(ndif_api_key=bob))).name == "bob"
    assert await auth.identify(connection(ndif_api_key=TOKENS.operator)) is LOCAL_OPERATOR
    clock.now = START + 0.5
    assert (await auth.identify(connection(ndif_api_key=ada))).name == ADA


def connection_from(address: str, **headers: str) -> HTTPConnection:
    request = connection(**headers)
    request.scope["client"] = (address, 1234)
    return request


async def test_an_address_that_guesses_keys_is_refused_before_the_store_is_asked(
    records: SqlRecordStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its neighbours are not locked out: a key that was good before is asked for as always."""
    proxies = parse_networks(["10.0.0.0/8"])
    auth = Authenticator(records, TOKENS, AuthRates(1e6, 2.0, proxies), loopback_only=True)
    ada, key_id = await add_key(records)
    bob, _ = await add_key(records, UserName("bob"))
    await auth.identify(connection_from("192.0.2.1", ndif_api_key=ada))
    for number in range(9):
        guess = connection_from("192.0.2.1", ndif_api_key=f"guess{number}")
        assert await refusal(auth, guess) is errors.KEY_UNKNOWN
    assert await refusal(auth, connection_from("192.0.2.1")) is errors.KEY_MISSING
    asked = await count_look_ups(records, monkeypatch)
    for headers in ({"ndif_api_key": "guess10"}, {}, {"ndif_api_key": bob}):
        with pytest.raises(OverLimit, match=r"from 192\.0\.2\.1"):
            await auth.identify(connection_from("192.0.2.1", **headers))
    through_proxy = {"x_forwarded_for": "192.0.2.1, 10.0.0.7", "ndif_api_key": "guess11"}
    with pytest.raises(OverLimit):
        await auth.identify(connection_from("10.0.0.8", **through_proxy))
    assert asked == []
    untrusted = {"x_forwarded_for": "192.0.2.1", "ndif_api_key": "guess11"}
    assert await refusal(auth, connection_from("192.0.2.2", **untrusted)) is errors.KEY_UNKNOWN
    clock.now = START + 1.01
    asked.clear()
    assert (await auth.identify(connection_from("192.0.2.1", ndif_api_key=ada))).name == ADA
    assert len(asked) == 1
    await records.revoke_key(key_id, clock.now)
    clock.now = START + 2.03
    assert await refusal(auth, connection_from("192.0.2.1", ndif_api_key=ada)) is errors.KEY_REVOKED


async def test_guesses_of_the_worker_token_are_counted_too(records: SqlRecordStore, clock: Clock) -> None:
    auth = Authenticator(records, TOKENS, AuthRates(1e6, 1.0), loopback_only=True)
    for _ in range(5):
        with pytest.raises(AuthRefused):
            auth.check_worker(connection(authorization="Bearer guess"))
    with pytest.raises(OverLimit):
        auth.check_worker(connection(authorization="Bearer guess"))
    auth.check_worker(connection(authorization=f"Bearer {TOKENS.worker}"))


async def test_each_refusal_is_an_exception_of_its_own(auth: Authenticator, records: SqlRecordStore) -> None:
    """One object raised again and again would grow a traceback without end."""
    await add_key(records)
    seen = []
    for _ in range(3):
        with pytest.raises(AuthRefused) as refused:
            await auth.identify(connection(ndif_api_key="wrong"))
        seen.append(refused.value)
    assert len({id(error) for error in seen}) == 3


# -- operators -----------------------------------------------------------------------------------------
async def test_operators_token_of_this_machine_counts_with_and_without_users(
    auth: Authenticator, records: SqlRecordStore
) -> None:
    request = connection("fabric.example.org", authorization="Bearer operator_secret")
    assert await auth.identify(request) == LOCAL_OPERATOR
    await add_key(records)
    assert await auth.identify_operator(request) == LOCAL_OPERATOR


@pytest.mark.parametrize(("role", "may"), [(Role.OPERATOR, True), (Role.RESEARCHER, False)])
async def test_only_operators_may_operate(
    auth: Authenticator, records: SqlRecordStore, role: Role, may: bool
) -> None:
    secret, _ = await add_key(records, role=role)
    request = connection(ndif_api_key=secret)
    if may:
        assert (await auth.identify_operator(request)).name == ADA
        return
    with pytest.raises(AuthRefused) as refused:
        await auth.identify_operator(request)
    assert refused.value.kind is errors.ROLE_TOO_LOW


# -- node agents ---------------------------------------------------------------------------------------
def test_worker_token_lets_agents_in(auth: Authenticator) -> None:
    auth.check_worker(connection(authorization="Bearer worker_secret"))
    auth.check_worker(connection(authorization="bearer  worker_secret"))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer operator_secret"},
        {"authorization": "Bearer worker_secre"},
        {"authorization": "worker_secret"},
        {"ndif_api_key": "worker_secret"},
    ],
    ids=str,
)
def test_nothing_else_lets_agents_in(auth: Authenticator, headers: dict[str, str]) -> None:
    with pytest.raises(AuthRefused) as refused:
        auth.check_worker(connection(**headers))
    assert refused.value.kind is errors.KEY_UNKNOWN


def test_empty_worker_token_lets_nobody_in(records: SqlRecordStore) -> None:
    """See also tests/unit/launch: a full disk can leave the token's file empty."""
    auth = Authenticator(records, Tokens(operator="", worker=""), RATES, loopback_only=True)
    with pytest.raises(AuthRefused):
        auth.check_worker(connection())


# -- is_loopback ---------------------------------------------------------------------------------------
@given(st.text(max_size=20) | st.ip_addresses().map(str))
@example("127.0.0.1")
@example("::1")
@example("localhost")
@example("a.localhost")
def test_loopback_is_a_loopback_address_or_the_name_localhost(host: str) -> None:
    if not is_loopback(host):
        return
    named = host.endswith("localhost") and (host == "localhost" or host[-10] == ".")
    assert named or host.startswith(("127.", "::1"))


@given(value=st.text(st.characters(max_codepoint=255), max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_key_is_refused_or_unknown_but_no_accident(
    records: SqlRecordStore, clock: Clock, value: str
) -> None:
    auth = Authenticator(records, TOKENS, RATES, loopback_only=True)
    await records.add_user(User(UserName("bob"), Role.RESEARCHER, START))
    for headers in ({"ndif_api_key": value}, {"authorization": value}, {"authorization": f"Bearer {value}"}):
        assert await refusal(auth, connection(**headers)) in (errors.KEY_UNKNOWN, errors.KEY_MISSING)


async def test_the_first_users_key_counts_from_the_moment_it_is_there(
    records: SqlRecordStore, auth: Authenticator
) -> None:
    """No time passes: what the store said of users a moment ago is still believed of those who bring no key."""
    assert await auth.identify(connection()) == Identity(ANONYMOUS, Role.OPERATOR)
    secret, _ = await add_key(records)
    assert (await auth.identify(connection(ndif_api_key=secret))).name == ADA
    assert await refusal(auth, connection()) is errors.KEY_MISSING


async def test_a_key_of_another_fabric_does_no_harm_on_an_open_one(auth: Authenticator) -> None:
    assert await auth.identify(connection(ndif_api_key="edif_of_another")) == Identity(
        ANONYMOUS, Role.OPERATOR
    )
