"""The model key that the nnsight client mints: ``import.path.Class:{json}``.

The class is looked up in an allow-list and never imported; the JSON names repository, revision and task.
Source: ``nnsight.modeling.mixins.remotable.Remotable.to_model_key`` of nnsight 0.8.1.
"""

import json
from typing import Any

import msgspec

from edif.core import errors
from edif.core.errors import Refused

ALLOWED_CLASSES = frozenset(
    {
        "nnsight.modeling.transformers.TransformersModel",
        "nnsight.modeling.language.LanguageModel",
    }
)


class ModelKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part of the key after the class path."""

    repo_id: str
    revision: str | None = None
    task: str | None = None
    trust_remote_code: bool = False


_decoder = msgspec.json.Decoder(ModelKey)


def parse_model_key(text: str) -> ModelKey:
    """Read a model key.

    Raises:
        Refused: the key is malformed, or its class is not one that a fabric serves.
    """
    path, separator, suffix = text.partition(":")
    if not separator:
        raise Refused(
            errors.MODEL_KEY_INVALID, f"The model key {shown(text)} is not of the form `class:{{json}}`."
        )
    if path not in ALLOWED_CLASSES:
        raise Refused(
            errors.MODEL_KEY_INVALID,
            f"This fabric runs models wrapped as TransformersModel or LanguageModel, not as {shown(path)}.",
        )
    try:
        return _decoder.decode(suffix)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Refused(
            errors.MODEL_KEY_INVALID, f"The model key's JSON does not fit: {str(error)[:200]}."
        ) from error


def shown(value: object) -> str:
    """What a refusal repeats of a client's value: the first words of a text, and of anything else only what it is.

    A value can be a megabyte, and nested as deep as the parser can follow: too deep for ``str`` a few calls further in.
    """
    return repr(value[:120]) if isinstance(value, str) else f"a value of type {type(value).__name__}"


def format_model_key(repo_id: str, revision: str | None, task: str, trust_remote_code: bool) -> str:
    """The key that a stock client mints for such a model, as listed in ``GET /status``."""
    data: dict[str, Any] = {"repo_id": repo_id, "revision": revision}
    if trust_remote_code:
        data["trust_remote_code"] = True
    data["task"] = task
    return "nnsight.modeling.transformers.TransformersModel:" + json.dumps(data)
