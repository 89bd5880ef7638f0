"""Settings: where they come from, which are refused, and their page in the documentation."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as with_settings

from edif.core import errors
from edif.core.errors import SetupError
from edif.core.limits import Isolation, Merge, Padding, SendFiles
from edif.settings import ClientVariables, DeploymentSettings, Settings, environment, load, strange_variables
from tests.unit.docs import plain, rows


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the machine: an empty folder, no ``EDIF_*`` variables."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EDIF_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def refusal(**flags: Any) -> SetupError:
    config = flags.pop("config", None)
    with pytest.raises(SetupError) as refused:
        load(config, **flags)
    assert refused.value.kind is errors.CONFIG_INVALID
    return refused.value


@pytest.mark.parametrize("network", ["proxy.example", "10.0.0.0/33", ""])
def test_a_proxy_that_is_no_network_is_told_at_the_start(network: str) -> None:
    assert "trusted_proxies" in refusal(trusted_proxies=(network,)).sentence


def test_certificates_are_found_from_whichever_folder_a_service_works_in(tmp_path: Path) -> None:
    assert load(None, tls_cert="chain.pem").tls_cert == tmp_path / "chain.pem"
    assert load(None, tls_key="~/key.pem").tls_key == Path.home() / "key.pem"


# -- precedence ----------------------------------------------------------------------------------------
def test_flag_before_environment_before_file_before_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load(None).port == 8289
    (tmp_path / "edif.toml").write_text("port = 1\n")
    assert load(None).port == 1
    monkeypatch.setenv("EDIF_PORT", "2")
    assert load(None).port == 2
    assert load(None, port=3).port == 3


def test_flag_that_was_not_given_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDIF_HOST", "::1")
    assert load(None, host=None, port=None).host == "::1"


def test_flag_that_is_false_or_zero_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDIF_DEMO", "true")
    monkeypatch.setenv("EDIF_PORT", "2")
    loaded = load(None, demo=False, port=0)
    assert (loaded.demo, loaded.port) == (False, 0)


def test_sources_are_merged_setting_by_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "edif.toml").write_text('port = 1\ndtype = "bfloat16"\n')
    monkeypatch.setenv("EDIF_LEASE_S", "7.5")
    loaded = load(None, demo=True)
    assert (loaded.port, loaded.dtype, loaded.lease_s, loaded.demo) == (1, "bfloat16", 7.5, True)


def test_named_file_is_read_in_place_of_the_one_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "edif.toml").write_text("port = 1\n")
    (tmp_path / "other.toml").write_text("threads = 3\n")
    loaded = load(tmp_path / "other.toml")
    assert (loaded.port, loaded.threads) == (8289, 3)


def test_file_of_an_earlier_load_does_not_linger(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("port = 1\n")
    load(tmp_path / "other.toml")
    assert load(None).port == 8289


def test_lists_and_tables_from_every_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models, adapters = ("org/a", "org/b=/srv/b"), {"org/lora": "/srv/lora"}
    assert load(None, models=models, adapters=adapters).models == models
    (tmp_path / "edif.toml").write_text(
        'models = ["org/a", "org/b=/srv/b"]\n[adapters]\n"org/lora" = "/srv/lora"\n'
    )
    loaded = load(None)
    assert (loaded.models, loaded.adapters) == (models, adapters)
    (tmp_path / "edif.toml").unlink()
    monkeypatch.setenv("EDIF_MODELS", json.dumps(models))
    monkeypatch.setenv("EDIF_ADAPTERS", json.dumps(adapters))
    loaded = load(None)
    assert (loaded.models, loaded.adapters) == (models, adapters)


def test_slash_at_the_end_of_a_url_does_not_count() -> None:
    assert (
        load(None, public_url="https://fabric.example.org/edif/").public_url
        == "https://fabric.example.org/edif"
    )


def test_one_gateway_or_several(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, two = "http://a:1", "http://b:2"
    for text, expected in ((one, (one,)), (json.dumps([one, two + "/"]), (one, two)), ("", ())):
        monkeypatch.setenv("EDIF_GATEWAY_URL", text)
        assert load(None).gateway_url == expected
    monkeypatch.delenv("EDIF_GATEWAY_URL")
    (tmp_path / "edif.toml").write_text(f'gateway_url = ["{one}", "{two}"]\n')
    assert load(None).gateway_url == (one, two)
    (tmp_path / "edif.toml").write_text(f'gateway_url = "{one}"\n')
    assert load(None).gateway_url == (one,)


def test_password_of_the_record_store_is_shown_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDIF_RECORD_STORE", "postgresql://edif:hunter2@db/edif")
    loaded = load(None)
    assert "hunter2" not in repr(loaded) + str(loaded) + loaded.model_dump_json()
    assert loaded.as_environment()["EDIF_RECORD_STORE"] == "postgresql://edif:hunter2@db/edif"
    monkeypatch.setenv("EDIF_RECORD_STORE", "mysql://edif:hunter2@db/edif")
    refused = refusal()
    assert "hunter2" not in refused.detail + repr(refused.__cause__)
    monkeypatch.setenv("EDIF_RECORD_STORE", "")
    assert load(None).record_store is None


@pytest.mark.parametrize(
    ("text", "name", "meant"),
    [
        ("merge_paddding = 'on'\n", "merge_paddding", "Did you mean 'merge_padding'? See"),
        ("zzz = 1\n", "zzz", "See docs"),
        (
            "[deployments.'org/name']\nisolaton = 'sealed'\n",
            "deployments.org/name.isolaton",
            "Did you mean 'isolation'? See",
        ),
    ],
)
def test_a_name_that_is_no_setting_is_told_with_its_file_and_the_nearest(
    text: str, name: str, meant: str, tmp_path: Path
) -> None:
    (tmp_path / "edif.toml").write_text(text)
    refused = refusal()
    assert refused.sentence == f"There is no setting {name!r}, which stands in 'edif.toml'."
    assert refused.next_step.startswith(meant)


def test_variables_of_clients_are_found_as_a_client_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDIF_URL", "NDIF_HOST", "EDIF_API_KEY", "NDIF_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert ClientVariables.read() == ClientVariables(None, None)
    monkeypatch.setenv("NDIF_HOST", "http://a")
    monkeypatch.setenv("NDIF_API_KEY", "k")
    assert ClientVariables.read() == ClientVariables("http://a", "k")
    monkeypatch.setenv("EDIF_URL", "http://b")
    monkeypatch.setenv("EDIF_API_KEY", "l")
    assert ClientVariables.read() == ClientVariables("http://b", "l")
    assert ClientVariables.read().without_url() == ClientVariables(None, "l")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(None).port = 1  # type: ignore[misc]


# -- bad values ----------------------------------------------------------------------------------------
BAD: list[tuple[str, Any]] = [
    ("port", -1),
    ("port", 65536),
    ("port", "http"),
    ("threads", 0),
    ("device", "gpu"),
    ("device", "cuda:"),
    ("time_limit_s", 0),
    ("time_limit_s", -1),
    ("time_limit_s", "nan"),
    ("result_limit_bytes", 0),
    ("payload_limit_bytes", -5),
    ("payload_expanded_limit_bytes", 0),
    ("log_limit_bytes", 0),
    ("push_bytes", -1),
    ("merge", "sometimes"),
    ("merge_rows", 0),
    ("merge_tokens", 0),
    ("merge_tolerance", -1),
    ("merge_tolerance", "inf"),
    ("merge_wait_s", -0.1),
    ("merge_wait_s", "inf"),
    ("merge_padding", "always"),
    ("link_mbit_s", 0),
    ("link_mbit_s", "inf"),
    ("retention_s", 0),
    ("min_free_bytes", -1),
    ("ping_s", 0),
    ("lease_s", 0),
    ("status_per_s", 0),
    ("demo", "perhaps"),
    ("public_url", "fabric.example.org"),
    ("gateway_url", "ws://127.0.0.1"),
    ("gateway_url", '["http://127.0.0.1:1", "127.0.0.1:2"]'),
    ("gateway_url", "[not JSON"),
    ("record_store", "sqlite:///records.sqlite"),
    ("blobs", "/srv/blobs"),
    ("blobs", "s3://"),
    ("blobs", "s3://Bucket"),
    ("blobs", "s3://bucket//x"),
    ("blobs", "s3://bucket/a b"),
    ("blobs_endpoint", "s3.example.org"),
    ("hub_upstream", "huggingface.co"),
    ("faults", '["no.such.point:1"]'),
    ("faults", '["job.recorded:0"]'),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_bad_value_is_refused_by_name_from_flag_environment_and_file(
    name: str, value: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert repr(name) in refusal(**{name: value}).sentence
    (tmp_path / "bad.toml").write_text(f"{name} = {json.dumps(value)}\n")
    assert repr(name) in refusal(config=tmp_path / "bad.toml").sentence
    monkeypatch.setenv(f"EDIF_{name.upper()}", str(value))
    assert repr(name) in refusal().sentence


@pytest.mark.parametrize(
    ("name", "value"), [("models", "org/name"), ("adapters", "{"), ("adapters", "[]"), ("models", "7")]
)
def test_list_that_is_no_json_is_refused_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"EDIF_{name.upper()}", value)
    assert name in refusal().sentence


def test_name_that_edif_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "edif.toml").write_text("prot = 1\n")
    assert "'prot'" in refusal().sentence
    (tmp_path / "edif.toml").unlink()
    assert "'prot'" in refusal(prot=1).sentence


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "nowhere.toml" in refusal(config=tmp_path / "nowhere.toml").sentence


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"port 1", b"[port"])
def test_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "edif.toml").write_bytes(content)
    assert "cannot be read" in refusal().sentence


@pytest.mark.parametrize("name", ["time_limit_s", "ping_s", "lease_s", "retention_s", "status_per_s"])
def test_time_without_end_is_refused(name: str) -> None:
    assert repr(name) in refusal(**{name: float("inf")}).sentence


def test_a_variable_that_is_no_setting_is_named_with_what_may_be_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [each for each in os.environ if each.startswith("EDIF_")]:
        monkeypatch.delenv(name)
    for name in ("EDIF_DEVICE", "EDIF_URL", "EDIF_API_KEY", "NDIF_HOST"):
        monkeypatch.setenv(name, "x")
    assert strange_variables() == {}
    monkeypatch.setenv("EDIF_DEVCE", "cuda")
    monkeypatch.setenv("EDIF_XYZZY", "1")
    assert strange_variables() == {"EDIF_DEVCE": "EDIF_DEVICE", "EDIF_XYZZY": ""}


# -- for child processes -------------------------------------------------------------------------------
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
URLS = st.none() | TEXT.map(lambda text: f"http://h{text}".rstrip("/"))
SIZES_ABOVE_ZERO = st.integers(1, 2**50)
SECONDS = st.floats(1e-3, 1e9)
DEPLOYMENTS = st.builds(
    DeploymentSettings,
    folder=st.none() | TEXT.filter(lambda text: text.strip("./")).map(Path),
    dtype=st.none() | TEXT,
    device=st.none() | st.just("cuda:1"),
    adapters=st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
    isolation=st.none() | st.sampled_from(Isolation),
    sealed_at_once=st.none() | st.integers(1, 99),
    merge=st.none() | st.sampled_from(Merge),
    merge_padding=st.none() | st.sampled_from(Padding),
)
PATHS = st.none() | TEXT.map(lambda text: Path("/etc") / text)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "data": TEXT.filter(lambda text: text.strip("./")).map(Path),
    "record_store": st.none() | TEXT.map(lambda text: f"postgresql://u:{text}@h/d"),
    "blobs": st.none() | st.sampled_from(["s3://bucket", "s3://bucket/some/fabric"]),
    "blobs_endpoint": URLS,
    "blobs_region": st.none() | TEXT,
    "blobs_credentials": PATHS,
    "blobs_ca": PATHS,
    "standby": st.booleans(),
    "host": TEXT,
    "port": st.integers(0, 65535),
    "public_url": URLS,
    "trusted_proxies": st.lists(st.sampled_from(["10.0.0.0/8", "::1", "fd00::/8"]), max_size=3).map(tuple),
    "tls_cert": PATHS,
    "tls_key": PATHS,
    "tls_ca": PATHS,
    "public_status": st.booleans(),
    "status_per_s": SECONDS,
    "requests_per_s": SECONDS,
    "refusals_per_s": SECONDS,
    "max_connections": st.integers(1, 2**20),
    "max_connections_per_address": st.integers(1, 2**20),
    "header_timeout_s": SECONDS,
    "header_limit_bytes": SIZES_ABOVE_ZERO,
    "stall_timeout_s": SECONDS,
    "body_bytes_per_s": SIZES_ABOVE_ZERO,
    "demo": st.booleans(),
    "models": st.lists(TEXT, max_size=3).map(tuple),
    "dtype": TEXT,
    "device": st.sampled_from(["cpu", "cuda", "cuda:11", "host"]),
    "threads": st.integers(1, 999),
    "adapters": st.dictionaries(TEXT, TEXT, max_size=3),
    "deployments": st.dictionaries(TEXT, DEPLOYMENTS, max_size=2),
    "hub_upstream": URLS,
    "time_limit_s": SECONDS,
    "result_limit_bytes": SIZES_ABOVE_ZERO,
    "payload_limit_bytes": SIZES_ABOVE_ZERO,
    "payload_expanded_limit_bytes": SIZES_ABOVE_ZERO,
    "isolation": st.sampled_from(Isolation),
    "sealed_at_once": st.integers(1, 99),
    "merge": st.sampled_from(Merge),
    "merge_rows": st.integers(1, 999),
    "merge_tokens": st.integers(1, 2**20),
    "merge_tolerance": st.floats(0, 1e6),
    "merge_wait_s": st.floats(0, 10),
    "merge_padding": st.sampled_from(Padding),
    "memory_limit_bytes": SIZES_ABOVE_ZERO,
    "scratch_limit_bytes": SIZES_ABOVE_ZERO,
    "log_limit_bytes": SIZES_ABOVE_ZERO,
    "push_bytes": st.integers(0, 2**50),
    "link_mbit_s": SECONDS,
    "send_files": st.sampled_from(SendFiles),
    "retention_s": SECONDS,
    "record_retention_s": SECONDS,
    "log_retention_s": SECONDS,
    "contact": TEXT,
    "patience_s": SECONDS,
    "drain_s": SECONDS,
    "min_free_bytes": st.integers(0, 2**50),
    "ping_s": SECONDS,
    "lease_s": SECONDS,
    "gateway_url": st.lists(URLS.filter(bool), max_size=3).map(tuple),
    "worker_token": st.none() | TEXT,
    "hold_results_s": st.floats(0, 86_400),
    "api_key": st.none() | TEXT,
    "decision_log": PATHS,
    "faults": st.lists(st.sampled_from(["job.recorded", "end.said:3"]), max_size=2).map(tuple),
    "log_json": st.booleans(),
}


@with_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.fixed_dictionaries({}, optional=VALUES))
def test_child_process_reads_the_same_settings_from_its_environment(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given_settings = load(None, **values)
    variables = given_settings.as_environment()
    with monkeypatch.context() as child:
        for name, value in variables.items():
            child.setenv(name, value)
        assert load(None) == given_settings


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2**31), ("1.5 MiB", 3 * 2**19), ("1000", 1000), ("3kB", 3000)]
)
def test_sizes_may_be_written_as_people_do(text: str, size: int) -> None:
    assert load(None, result_limit_bytes=text).result_limit_bytes == size


def test_round_trip_names_every_setting() -> None:
    """So that a new setting is not forgotten above."""
    assert set(VALUES) == set(Settings.model_fields)


def test_environment_for_other_programs_has_none_of_edifs_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDIF_WORKER_TOKEN", "secret")
    monkeypatch.setenv("EDIFICE", "a building")
    passed = environment()
    assert "EDIF_WORKER_TOKEN" not in passed
    assert passed["EDIFICE"] == "a building"
    assert "PATH" in passed


# -- the page ------------------------------------------------------------------------------------------
def written(value: Any) -> str:
    """A default as the page writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool | tuple | dict):
        return f"`{json.dumps(value)}`"
    return f"`{value}`"


COMPUTED = {"threads": "the CPUs that it may use", "log_json": "`true` unless standard error is a terminal"}


def of_all() -> list[list[str]]:
    return [row for row in rows("configuration.md") if len(row) == 4]


def of_one_model() -> list[list[str]]:
    return [row for row in rows("configuration.md") if len(row) == 3]


def test_page_lists_exactly_the_settings_in_their_order() -> None:
    assert [plain(row[0]) for row in of_all()] == list(Settings.model_fields)
    assert [plain(row[0]) for row in of_one_model()] == list(DeploymentSettings.model_fields)


def test_page_tells_default_and_meaning_of_one_models_settings() -> None:
    for name, default, meaning in of_one_model():
        field = DeploymentSettings.model_fields[plain(name)]
        assert (default, meaning) == (written(field.default), field.description)


def test_page_tells_default_variable_and_meaning() -> None:
    for name, default, variable, meaning in of_all():
        field = Settings.model_fields[plain(name)]
        assert plain(variable) == f"EDIF_{plain(name).upper()}"
        assert meaning == field.description
        if plain(name) in COMPUTED:
            assert default == COMPUTED[plain(name)]
        else:
            assert default == written(field.get_default(call_default_factory=True)), name


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_computed_defaults_are_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(11)))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    loaded = load(None)
    assert (loaded.threads, loaded.log_json) == (11, False)
