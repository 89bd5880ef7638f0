"""The model key, as the stock client mints it and as anyone may forge it."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from edif.core import errors
from edif.core.errors import Refused
from edif.models.model_key import ALLOWED_CLASSES, ModelKey, format_model_key, parse_model_key
from tests.unit.helpers import refusal_of

LANGUAGE_MODEL = "nnsight.modeling.language.LanguageModel"
ANY_TEXT = st.text(st.characters(), max_size=40)
TEXT = st.text(max_size=40)


def refusal(text: str) -> str:
    with pytest.raises(Refused) as refused:
        parse_model_key(text)
    assert refused.value.kind is errors.MODEL_KEY_INVALID
    return refused.value.sentence


@given(
    repo_id=TEXT,
    revision=st.none() | TEXT,
    task=st.none() | TEXT,
    trust=st.booleans(),
    path=st.sampled_from(sorted(ALLOWED_CLASSES)),
)
def test_key_is_read_as_it_was_written(
    repo_id: str, revision: str | None, task: str | None, trust: bool, path: str
) -> None:
    data = {"repo_id": repo_id, "revision": revision, "task": task, "trust_remote_code": trust}
    assert parse_model_key(f"{path}:{json.dumps(data)}") == ModelKey(repo_id, revision, task, trust)


@given(TEXT, st.none() | TEXT, TEXT, st.booleans())
def test_listed_key_is_one_that_is_accepted(
    repo_id: str, revision: str | None, task: str, trust: bool
) -> None:
    listed = format_model_key(repo_id, revision, task, trust)
    assert parse_model_key(listed) == ModelKey(repo_id, revision, task, trust)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("revision", [None, "main", "v1"])
def test_listed_key_is_the_one_that_the_stock_client_mints(
    revision: str | None, trust: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnsight.modeling import huggingface
    from nnsight.modeling.transformers import TransformersModel

    monkeypatch.setitem(huggingface._ID_CACHE, "org/name", "org/name")  # or it would ask the Hub
    model = object.__new__(TransformersModel)  # only the key is asked of it: nothing is loaded
    model.__dict__.update(
        repo_id="org/name", revision=revision, task="text-generation", kwargs={"trust_remote_code": trust}
    )
    assert format_model_key("org/name", revision, "text-generation", trust) == model.to_model_key()


@pytest.mark.parametrize(
    "path",
    [
        "",
        "os.system",
        "nnsight.modeling.language",
        "nnsight.LanguageModel",
        LANGUAGE_MODEL + " ",
        LANGUAGE_MODEL.upper(),
        "nnsight.modeling.diffusion.DiffusionModel",
    ],
)
def test_class_that_is_not_allowed_is_refused_by_name(path: str) -> None:
    assert repr(path[:120]) in refusal(f'{path}:{{"repo_id": "org/name"}}')


@pytest.mark.parametrize(
    "suffix",
    [
        "",
        "{}",
        "null",
        "[]",
        '"org/name"',
        '{"repo_id": null}',
        '{"repo_id": 7}',
        '{"repo_id": "a", "revision": 7}',
        '{"repo_id": "a", "trust_remote_code": "yes"}',
        '{"repo_id": "a", "import_path": "os.system"}',
        '{"repo_id": "a"} x',
        '{"repo_id": "a"',
        '{"repo_id": "\ud800"}',
        '{"repo_id": ' + "[" * 100_000,
    ],
    ids=lambda suffix: repr(suffix[:40]),
)
def test_json_that_does_not_fit_is_refused(suffix: str) -> None:
    assert len(refusal(f"{LANGUAGE_MODEL}:{suffix}")) < 400


@pytest.mark.parametrize("text", ["", LANGUAGE_MODEL, "x" * 10_000])
def test_key_without_a_colon_is_refused_in_short(text: str) -> None:
    assert len(refusal(text)) < 300


@given(
    ANY_TEXT
    | ANY_TEXT.map(lambda end: f"{LANGUAGE_MODEL}:{end}")
    | st.builds(
        lambda head, data, tail: f"{LANGUAGE_MODEL}:{head}{json.dumps(data)}{tail}",
        st.just("") | TEXT,
        st.dictionaries(
            st.sampled_from(["repo_id", "revision", "task", "x"]), st.none() | TEXT | st.booleans()
        ),
        st.just("") | TEXT,
    )
)
@example(f'{LANGUAGE_MODEL}:{{"repo_id":"\ud8ff"}}')
def test_any_text_is_a_key_or_refused(text: str) -> None:
    kind = refusal_of(lambda: parse_model_key(text), error=Refused)
    assert kind in (None, errors.MODEL_KEY_INVALID)
