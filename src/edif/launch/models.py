"""The catalogue that the settings describe."""

from edif.core import errors
from edif.core.errors import SetupError
from edif.core.limits import Merge, Padding
from edif.models.catalogue import (
    DEMO_MODEL_ID,
    DEMO_MODEL_PATH,
    Catalogue,
    Deployment,
    check_model_id,
    model_folder,
    parse_model_option,
)
from edif.settings import DeploymentSettings, Settings
from edif.wire.link import Merging, ModelSpec


def catalogue_of(settings: Settings) -> Catalogue:
    """
    Raises:
        SetupError: a model option that cannot be read, or a model named twice.
    """
    folders = _folders(settings)
    for model, own in settings.deployments.items():
        check_model_id(model, model)
        if folders.get(model) is None:
            folders[model] = _own_folder(model, own)
    plain = DeploymentSettings()
    return Catalogue(
        _deployment(settings, model, folder, settings.deployments.get(model, plain))
        for model, folder in folders.items()
    )


def _own_folder(model: str, own: DeploymentSettings) -> str | None:
    if own.folder is not None:
        return model_folder(model, str(own.folder))
    return str(DEMO_MODEL_PATH) if model == DEMO_MODEL_ID else None


def _folders(settings: Settings) -> dict[str, str | None]:
    """The folder, if one is named, of each model that the flags name."""
    named: list[tuple[str, str | None]] = []
    if settings.demo:
        named.append((DEMO_MODEL_ID, str(DEMO_MODEL_PATH)))
    named += map(parse_model_option, settings.models)
    folders = dict(named)
    if len(folders) < len(named):
        raise SetupError(errors.CONFIG_INVALID, "A model is named twice.", "Name each model once.")
    return folders


def _deployment(settings: Settings, model: str, folder: str | None, own: DeploymentSettings) -> Deployment:
    """What the deployment says of itself, and what holds for all where it does not."""
    spec = ModelSpec(
        id=model,
        path=folder,
        revision=own.revision,
        dtype=own.dtype or settings.dtype,
        task=own.task,
        threads=own.threads or settings.threads,
        adapters=settings.adapters if own.adapters is None else own.adapters,
        trust_remote_code=own.trust_remote_code,
        device=own.device or settings.device,
    )
    isolation = own.isolation or settings.isolation
    if spec.on_device:  # one job at a time
        return Deployment(spec, isolation)
    sealed_at_once = own.sealed_at_once or settings.sealed_at_once
    merging = _merging(
        settings, own.merge or settings.merge, own.merge_padding or settings.merge_padding, sealed_at_once
    )
    return Deployment(spec, isolation, sealed_at_once, merging)


def _merging(settings: Settings, merge: Merge, padding: Padding, sealed_at_once: int) -> Merging | None:
    if merge is Merge.OFF:
        return None
    return Merging(
        rows=settings.merge_rows,
        tokens=settings.merge_tokens,
        tolerance=settings.merge_tolerance,
        alone_at_once=sealed_at_once,
        always=merge is Merge.ALWAYS,
        wait_s=settings.merge_wait_s,
        padding=padding,
    )
