"""What a connection changes in this process, so that it can be put back."""

import os
import sys
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants
from nnsight.modeling.mixins.remotable import Remotable
from nnsight.schema.config import CONFIG

_ABSENT = object()


class Overrides:
    """Attributes and environment variables with other values for a while."""

    def __init__(self) -> None:
        self._attributes: list[tuple[Any, str, Any, Any]] = []
        self._variables: list[tuple[str, str | None, str]] = []

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        self._attributes.append((owner, name, getattr(owner, name, _ABSENT), value))
        setattr(owner, name, value)

    def variable(self, name: str, value: str) -> None:
        self._variables.append((name, os.environ.get(name), value))  # noqa: TID251 - put back by restore()
        os.environ[name] = value  # noqa: TID251

    def restore(self) -> None:
        """Put back what has not been changed by somebody else since, last change first."""
        for owner, name, old, new in reversed(self._attributes):
            if getattr(owner, name, _ABSENT) is new:
                delattr(owner, name) if old is _ABSENT else setattr(owner, name, old)
        for name, before, now in reversed(self._variables):
            if os.environ.get(name) != now:  # noqa: TID251
                continue
            if before is None:
                del os.environ[name]  # noqa: TID251
            else:
                os.environ[name] = before  # noqa: TID251
        self._attributes.clear()
        self._variables.clear()


def steer_nnsight(overrides: Overrides, url: str, key: str | None, remote_backend: Any) -> None:
    """Have nnsight speak with this fabric: its settings, and the one place where it makes a backend for ``remote=True``."""
    overrides.attribute(CONFIG.API, "HOST", url)
    overrides.attribute(CONFIG.API, "APIKEY", key)
    overrides.attribute(Remotable, "_remote_backend", remote_backend)


def steer_hub(overrides: Overrides, url: str, key: str | None) -> None:
    """Have ``huggingface_hub`` ask this mirror: it reads the variable once, when it is imported, and its client reads what it
    was imported with once more.
    """
    overrides.variable("HF_ENDPOINT", url)
    if key:
        overrides.variable("HF_TOKEN", key)
    overrides.attribute(constants, "ENDPOINT", url)
    overrides.attribute(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    host = urlsplit(url).hostname or ""
    overrides.attribute(constants, "HF_URL_HOSTS", constants.HF_URL_HOSTS | {host})
    if (imported := sys.modules.get("huggingface_hub.hf_api")) is not None:
        overrides.attribute(imported.api, "endpoint", url)
