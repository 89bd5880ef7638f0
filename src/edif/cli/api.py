"""Asking a gateway, as the operator of this machine or with a key."""

import ssl
from pathlib import Path
from typing import Any

import httpx

from edif.core import errors
from edif.core.errors import SetupError
from edif.launch.data_folder import DataFolder
from edif.launch.tls import client_context
from edif.settings import ClientVariables, Settings


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


def connect(settings: Settings, url: str | None, client: ClientVariables) -> Api:
    """The gateway at ``url``, or the one that runs on the data folder of this machine, or the one that ``client`` names.

    Raises:
        SetupError: none runs there and none is named, or what is named is no URL.
    """
    folder = DataFolder(Path(settings.data).resolve())
    facts = None if url is not None else folder.facts("gateway")
    if facts is None:
        url = _checked(url or client.url, folder)
        return Api(url, settings.api_key or client.key, client_context(settings, folder, url))
    url = str(facts["url"])
    key = settings.api_key or folder.secret("operator.token")
    return Api(url, key, client_context(settings, folder, url))


def _checked(url: str | None, folder: DataFolder) -> str:
    if not url:
        raise SetupError(
            errors.GATEWAY_UNREACHABLE,
            f"No gateway runs on the data folder {str(folder.root)!r}.",
            "Start it with `edif serve`, or name its folder with --data. On another machine name the fabric with --url.",
        )
    if not url.startswith(("http://", "https://")):
        raise SetupError(
            errors.GATEWAY_UNREACHABLE,
            f"{url!r} is no URL of a gateway.",
            "Write it with http:// or https:// in front.",
        )
    return url.rstrip("/")
