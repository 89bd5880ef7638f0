"""Which requests fit a served model."""

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edif.core import errors
from edif.core.errors import ErrorCode, Refused, SetupError
from edif.models.catalogue import (
    DEMO_MODEL_ID,
    DEMO_MODEL_PATH,
    Catalogue,
    Deployment,
    check_env,
    parse_model_option,
)
from edif.models.model_key import format_model_key
from edif.wire.link import ModelSpec
from tests.unit.helpers import refusal_of

PLAIN = ModelSpec("org/plain")
PINNED = ModelSpec("org/pinned", revision="v1")
TASK = ModelSpec("org/task", task="fill-mask")
TRUSTED = ModelSpec("org/trusted", trust_remote_code=True)
ADAPTED = ModelSpec("org/adapted", adapters={"org/lora": "", "org/dora": "/srv/dora"})
CATALOGUE = Catalogue(map(Deployment, [PLAIN, PINNED, TASK, TRUSTED, ADAPTED]))


def key(repo: str, revision: str | None = None, task: str = "text-generation", trust: bool = False) -> str:
    return format_model_key(repo, revision, task, trust)


@pytest.mark.parametrize(
    ("model_key", "spec"),
    [
        (key("org/plain"), PLAIN),
        (key("org/plain", "main"), PLAIN),
        (key("org/pinned"), PINNED),
        (key("org/pinned", "v1"), PINNED),
        (key("org/pinned", "main"), PINNED),
        (key("org/task", task="fill-mask"), TASK),
        (key("org/trusted"), TRUSTED),
        (key("org/trusted", trust=True), TRUSTED),
        ('nnsight.modeling.language.LanguageModel:{"repo_id": "org/plain"}', PLAIN),
        ('nnsight.modeling.language.LanguageModel:{"repo_id": "org/task"}', TASK),
    ],
)
def test_key_of_a_served_model_finds_it(model_key: str, spec: ModelSpec) -> None:
    assert CATALOGUE.match(model_key, {}).spec == spec


@pytest.mark.parametrize(
    ("model_key", "kind", "named"),
    [
        (key("org/other"), errors.MODEL_NOT_SERVED, "org/plain"),
        (key("org"), errors.MODEL_NOT_SERVED, "'org'"),
        (key("ORG/plain"), errors.MODEL_NOT_SERVED, "'ORG/plain'"),
        (key("org/plain", "v2"), errors.MODEL_NOT_SERVED, "'main'"),
        (key("org/pinned", "v2"), errors.MODEL_NOT_SERVED, "'v1'"),
        (key("org/plain", task="fill-mask"), errors.MODEL_NOT_SERVED, "'text-generation'"),
        (key("org/task"), errors.MODEL_NOT_SERVED, "'fill-mask'"),
        (key("org/plain", trust=True), errors.MODEL_NOT_SERVED, "own code"),
        ("nonsense", errors.MODEL_KEY_INVALID, "nonsense"),
        ("os.system:{}", errors.MODEL_KEY_INVALID, "os.system"),
    ],
)
def test_key_that_fits_no_served_model_is_refused(model_key: str, kind: ErrorCode, named: str) -> None:
    with pytest.raises(Refused, match=named) as refused:
        CATALOGUE.match(model_key, {})
    assert refused.value.kind is kind


def test_refusal_of_an_empty_catalogue_says_so() -> None:
    with pytest.raises(Refused, match="served: none"):
        Catalogue([]).match(key("org/plain"), {})


def test_env_is_checked_for_the_model_that_is_named() -> None:
    assert CATALOGUE.match(key("org/adapted"), {"peft": "org/lora"}).spec == ADAPTED
    with pytest.raises(Refused) as refused:
        CATALOGUE.match(key("org/plain"), {"peft": "org/lora"})
    assert refused.value.kind is errors.ENV_NOT_ALLOWED


# -- check_env -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "env",
    [
        {},
        {"attn_implementation": "eager"},
        {"attn_implementation": "sdpa"},
        {"attn_implementation": None},
        {"peft": None},
        {"peft": "org/lora"},
        {"peft": "org/dora", "attn_implementation": "eager"},
    ],
)
def test_env_that_is_allowed(env: dict[str, Any]) -> None:
    check_env(env, ADAPTED)


@pytest.mark.parametrize(
    "env",
    [
        {"attn_implementation": "flash_attention_2"},
        {"attn_implementation": ""},
        {"attn_implementation": 0},
        {"attn_implementation": ["eager"]},
        {"attn_implementation": {"": "eager"}},
        {"attn_implementation": False},
        {"peft": "org/other"},
        {"peft": "/srv/dora"},
        {"peft": ""},
        {"peft": ["org/lora"]},
        {"peft": {"id": "org/lora"}},
        {"peft": 7},
        {"dtype": "float16"},
        {"": None},
        {"peft": "org/lora", "device_map": "auto"},
    ],
    ids=str,
)
def test_env_that_is_not_allowed_is_refused(env: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        check_env(env, ADAPTED)
    assert refused.value.kind is errors.ENV_NOT_ALLOWED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["attn_implementation", "peft", "x"]) | st.text(max_size=5)


@given(st.dictionaries(NAMES, JSON, max_size=3))
def test_any_env_is_allowed_whole_or_refused(env: dict[str, Any]) -> None:
    kind = refusal_of(lambda: check_env(env, ADAPTED), error=Refused)
    if kind is not None:
        assert kind is errors.ENV_NOT_ALLOWED
        return
    assert env.get("attn_implementation") in (None, "eager", "sdpa")
    assert env.get("peft") in (None, *ADAPTED.adapters)
    assert set(env) <= {"attn_implementation", "peft"}


@given(st.text(min_size=1000, max_size=1200), st.text(min_size=1000, max_size=1200))
def test_refusal_does_not_repeat_a_long_value(name: str, value: str) -> None:
    for env in ({"attn_implementation": value}, {"peft": value}, {name: value}):
        with pytest.raises(Refused) as refused:
            check_env(env, ADAPTED)
        assert len(refused.value.sentence) < 1500


def test_env_nested_deeper_than_python_can_print_is_refused() -> None:
    """The parser follows to Python's own depth; whoever looks at the value later stands deeper in the stack."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    for env in ({"attn_implementation": value}, {"peft": value}):
        with pytest.raises(Refused) as refused:
            check_env(env, ADAPTED)
        assert refused.value.kind is errors.ENV_NOT_ALLOWED


# -- the catalogue -------------------------------------------------------------------------------------
def test_catalogue_is_read_by_id_and_in_its_order() -> None:
    assert [each.spec for each in CATALOGUE] == [PLAIN, PINNED, TASK, TRUSTED, ADAPTED]
    assert len(CATALOGUE) == 5
    assert CATALOGUE["org/plain"].spec is PLAIN
    assert "org/plain" in CATALOGUE
    assert "org/other" not in CATALOGUE


def test_model_named_twice_is_refused() -> None:
    with pytest.raises(SetupError, match="org/plain"):
        Catalogue([Deployment(PLAIN), Deployment(PLAIN)])


def test_demo_model_is_a_folder_of_the_package() -> None:
    assert DEMO_MODEL_ID == "edif/demo"
    assert (DEMO_MODEL_PATH / "config.json").is_file()


# -- --model -------------------------------------------------------------------------------------------
def test_option_with_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m=1").mkdir()
    (tmp_path / "m=1" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert parse_model_option("org/name=m=1") == ("org/name", str(tmp_path / "m=1"))


def test_option_without_a_folder_comes_from_the_hub() -> None:
    assert parse_model_option("org/name") == ("org/name", None)


@pytest.mark.parametrize("text", ["", "=", "=/srv/m", "/srv/m", "./m", "../m", "org name", "org/na me=/srv"])
def test_option_that_names_no_repository_is_refused(text: str) -> None:
    with pytest.raises(SetupError) as refused:
        parse_model_option(text)
    assert refused.value.kind is errors.CONFIG_INVALID
    assert repr(text) in refused.value.sentence


def test_option_with_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"config\.json"):
        parse_model_option(f"org/name={tmp_path}")
