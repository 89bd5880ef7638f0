"""Which models this fabric serves, and whether a request fits one of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edif.core import errors
from edif.core.errors import Refused, SetupError
from edif.core.limits import Isolation, Merge
from edif.models.model_key import ModelKey, parse_model_key, shown
from edif.wire.link import Merging, ModelSpec

DEMO_MODEL_ID = "edif/demo"
DEMO_MODEL_PATH = Path(__file__).parent / "demo"

ALLOWED_ATTENTION = frozenset({"eager", "sdpa"})


@dataclass(frozen=True, slots=True)
class Deployment:
    """One served model: what is loaded, and how jobs run on it.

    Attributes:
        spec: what is loaded.
        isolation: whether its jobs are closed in.
        sealed_at_once: how many sealed jobs of one replica run the model by themselves at the same time.
        merging: how its traces share forward passes; None if they do not.
    """

    spec: ModelSpec
    isolation: Isolation = Isolation.AUTO
    sealed_at_once: int = 1
    merging: Merging | None = None

    @property
    def merge(self) -> Merge:
        """Whether its traces share forward passes, as the operator set it."""
        if self.merging is None:
            return Merge.OFF
        return Merge.ALWAYS if self.merging.always else Merge.AUTO


def parse_model_option(text: str) -> tuple[str, str | None]:
    """The id and, if one is named, the folder of ``--model ID[=FOLDER]``.

    Raises:
        SetupError: the id is empty, or the folder does not look like a model.
    """
    model_id, _, path = text.partition("=")
    check_model_id(model_id, text)
    return model_id, model_folder(model_id, path) if path else None


def check_model_id(model_id: str, text: str) -> None:
    """
    Args:
        text: what the operator wrote, for the refusal.

    Raises:
        SetupError: this cannot be a repository's id.
    """
    if not model_id or "=" in model_id or model_id.startswith(("/", ".")) or " " in model_id:
        raise SetupError(
            errors.CONFIG_INVALID,
            f"--model {text!r} does not name a repository id.",
            "Write --model ORG/NAME or --model ORG/NAME=/path/to/folder.",
        )


def model_folder(model_id: str, path: str) -> str:
    """The folder's absolute path.

    Raises:
        SetupError: it does not look like a model.
    """
    if not (Path(path) / "config.json").is_file():
        raise SetupError(
            errors.CONFIG_INVALID,
            f"The folder {path!r} of model {model_id!r} has no config.json.",
            "Point it at a folder written by save_pretrained().",
        )
    return str(Path(path).resolve())


class Catalogue:
    """The allowed models, by id. An id is served in one revision and one task at a time."""

    def __init__(self, deployments: Iterable[Deployment]) -> None:
        self._deployments: dict[str, Deployment] = {}
        for deployment in deployments:
            model = deployment.spec.id
            if model in self._deployments:
                raise SetupError(
                    errors.CONFIG_INVALID, f"The model {model!r} is named twice.", "Name each model once."
                )
            self._deployments[model] = deployment

    def __iter__(self) -> Iterator[Deployment]:
        return iter(self._deployments.values())

    def __len__(self) -> int:
        return len(self._deployments)

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._deployments

    def __getitem__(self, model_id: str) -> Deployment:
        return self._deployments[model_id]

    def match(self, model_key: str, env: dict[str, Any]) -> Deployment:
        """The deployment that a request names.

        Raises:
            Refused: no such model, another revision or task than served, or an env that is not allowed.
        """
        key = parse_model_key(model_key)
        deployment = self._deployments.get(key.repo_id)
        if deployment is None:
            served = ", ".join(sorted(self._deployments)) or "none"
            raise Refused(
                errors.MODEL_NOT_SERVED,
                f"The model {shown(key.repo_id)} is not served here; served: {served}.",
            )
        self._check_variant(key, deployment.spec)
        check_env(env, deployment.spec)
        return deployment

    @staticmethod
    def _check_variant(key: ModelKey, spec: ModelSpec) -> None:
        served_revisions = {None, "main", spec.revision}
        if key.revision not in served_revisions:
            raise Refused(
                errors.MODEL_NOT_SERVED,
                f"The model {spec.id!r} is served in revision {spec.revision or 'main'!r}, "
                f"not {shown(key.revision)}.",
            )
        if key.task is not None and key.task != spec.task:
            raise Refused(
                errors.MODEL_NOT_SERVED,
                f"The model {spec.id!r} is served for the task {spec.task!r}, not {shown(key.task)}.",
                f"Build it with task={spec.task!r}.",
            )
        if key.trust_remote_code and not spec.trust_remote_code:
            raise Refused(
                errors.MODEL_NOT_SERVED,
                f"The model {spec.id!r} is served without the repository's own code.",
                "Build it without trust_remote_code, or ask your operator to allow it.",
            )


def check_env(env: dict[str, Any], spec: ModelSpec) -> None:
    """Whether the request's ``env`` may be applied to this model.

    Raises:
        Refused: an attention implementation, adapter or setting that is not allowed.
    """
    attention = env.get("attn_implementation")
    if attention is not None and not (isinstance(attention, str) and attention in ALLOWED_ATTENTION):
        raise Refused(
            errors.ENV_NOT_ALLOWED,
            f"attn_implementation={shown(attention)} is not allowed here; "
            f"allowed: {', '.join(sorted(ALLOWED_ATTENTION))}.",
        )
    adapter = env.get("peft")
    if adapter is not None and not (isinstance(adapter, str) and adapter in spec.adapters):
        allowed = ", ".join(sorted(spec.adapters)) or "none"
        raise Refused(
            errors.ENV_NOT_ALLOWED,
            f"The adapter {shown(adapter)} is not allowed on {spec.id!r}; allowed: {allowed}.",
        )
    unknown = sorted(set(env) - {"attn_implementation", "peft"})
    if unknown:
        raise Refused(
            errors.ENV_NOT_ALLOWED, f"This fabric does not know the env setting {shown(unknown[0])}."
        )
