"""Asking a gateway, as the operator of this machine or with a key."""

import ssl
from pathlib import Path
from typing import Any

import httpx

from edif.core import errors
from edif.core.errors import SetupError
from edif.launch.data_folder import DataFolder
from edif.launch.tls import client_context
from edif.settings import Settings


class Api:
    """HTTP calls to ``/edif/v1`` that raise :class:`EdifError` with what the gateway said."""

    def __init__(self, url: str, key: str | None, tls: ssl.SSLContext | None) -> None:
        self.url = url
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=url, headers=headers, verify=tls or True, timeout=30.0)

    def get(self, path: str, **params: Any) -> Any:
        return self._call("GET", path, params)

    def post(self, path: str) -> Any:
        return self._call("POST", path, {})

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path, {})

    def _call(self, method: str, path: str, params: dict[str, Any]) -> Any:
        try:
            response = self._client.request(
                method, path, params={name: value for name, value in params.items() if value is not None}
            )
        except httpx.HTTPError as error:
            raise SetupError(
                errors.GATEWAY_UNREACHABLE, f"No gateway answers at {self.url}: {error}."
            ) from error
        if response.is_error:
            raise errors.read(response.content, f"The gateway answered HTTP {response.status_code}.")
        return response.json()


def connect(settings: Settings, url: str | None) -> Api:
    """The gateway at ``url``, or the one that runs on the data folder of this machine.

    Raises:
        SetupError: none runs there and none is named.
    """
    folder = DataFolder(Path(settings.data).resolve())
    if url is not None:
        url = url.rstrip("/")
        return Api(url, settings.api_key, client_context(settings, folder, url))
    facts = folder.facts("gateway")
    if facts is None:
        raise SetupError(
            errors.GATEWAY_UNREACHABLE, f"No gateway runs on the data folder {str(folder.root)!r}."
        )
    url = str(facts["url"])
    key = settings.api_key or folder.secret("operator.token")
    return Api(url, key, client_context(settings, folder, url))
