"""The catalogue that the settings describe."""

from edif.models.catalogue import Catalogue, demo_model, parse_model_option
from edif.settings import Settings


def catalogue_of(settings: Settings) -> Catalogue:
    """
    Raises:
        SetupError: a model option that cannot be read, or a model named twice.
    """
    specs = [demo_model(settings.threads)] if settings.demo else []
    for option in settings.models:
        specs.append(
            parse_model_option(
                option, dtype=settings.dtype, threads=settings.threads, adapters=settings.adapters
            )
        )
    return Catalogue(specs)
