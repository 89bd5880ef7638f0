"""Every setting of eDIF: from flags, the environment (``EDIF_*``) and ``edif.toml``, in this order.

This is the only room that reads the environment. ``docs/configuration.md`` lists each setting; a test
compares the two.
"""

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import msgspec
from pydantic import SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from edif.core import errors
from edif.core.errors import SetupError
from edif.settings.edge import Edge
from edif.settings.jobs import Jobs
from edif.settings.keeping import Keeping
from edif.settings.operation import Operation
from edif.settings.serving import DeploymentSettings, Serving
from edif.settings.stores import Stores

__all__ = ["ClientVariables", "DeploymentSettings", "Settings", "environment", "load", "strange_variables"]

_PREFIX = "EDIF_"
_URL = "EDIF_URL"


class Settings(Operation, Keeping, Jobs, Serving, Edge, Stores, BaseSettings):
    """What an operator can set. Sizes are bytes, times seconds."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, toml_file=_config_file)
        return init_settings, env_settings, toml

    def as_environment(self) -> dict[str, str]:
        """These settings as ``EDIF_*`` variables, for a child process to read."""
        variables = {}
        for name, value in self.model_dump(mode="json").items():
            if isinstance(getattr(self, name), SecretStr):
                variables[_PREFIX + name.upper()] = getattr(self, name).get_secret_value()
            elif value is not None:
                text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
                variables[_PREFIX + name.upper()] = text
        return variables


_config_file: Path | None = None


def load(config: Path | None, **flags: Any) -> Settings:
    """The settings from all sources; flags that are None do not count.

    Raises:
        SetupError: a file that cannot be read, or a setting that does not fit.
    """
    global _config_file
    if config is None and Path("edif.toml").is_file():
        config = Path("edif.toml")
    if config is not None and not config.is_file():
        raise SetupError(errors.CONFIG_INVALID, f"The configuration file {str(config)!r} does not exist.")
    _config_file = config
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise _refusal(error, config) from error
    except ValueError as error:
        raise SetupError(errors.CONFIG_INVALID, f"The configuration cannot be read: {error}.") from error


def strange_variables() -> dict[str, str]:
    """Variables of this process that look like settings and are none, each with the one that it may have been meant for, or ``""``."""
    known = {*(name.upper() for name in Settings.model_fields), _URL.removeprefix(_PREFIX)}
    names = [name.removeprefix(_PREFIX) for name in os.environ if name.startswith(_PREFIX)]  # noqa: TID251
    alike = {name: difflib.get_close_matches(name, known, 1) for name in names if name not in known}
    return {_PREFIX + name: _PREFIX + meant[0] if meant else "" for name, meant in alike.items()}


def _refusal(error: ValidationError, config: Path | None) -> SetupError:
    """What is said of the first setting that does not fit."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return SetupError(errors.CONFIG_INVALID, f"The setting {name!r} does not fit: {first['msg']}.")
    fields = Settings.model_fields if len(first["loc"]) == 1 else DeploymentSettings.model_fields
    alike = difflib.get_close_matches(str(first["loc"][-1]), fields, 1)
    # Of the sources only the file can hold names that nobody asked for.
    return SetupError(
        errors.CONFIG_INVALID,
        f"There is no setting {name!r}, which stands in {str(config)!r}.",
        (f"Did you mean {alike[0]!r}? " if alike else "") + errors.CONFIG_INVALID.next_step,
    )


@dataclass(frozen=True, slots=True)
class ClientVariables:
    """The fabric that programs of this account use, and their key, as ``edif.connect`` finds them too."""

    url: str | None
    key: str | None

    @classmethod
    def read(cls) -> Self:
        return cls(_first(_URL, "NDIF_HOST"), _first("EDIF_API_KEY", "NDIF_API_KEY"))

    def without_url(self) -> Self:
        return replace(self, url=None)


def _first(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)  # noqa: TID251


def environment() -> dict[str, str]:
    """The process environment without eDIF's own variables, to pass on to child processes."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX)}  # noqa: TID251
