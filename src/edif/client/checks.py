"""What must fit before a program is let loose on a fabric, and a sentence for each thing that does not."""

import platform
import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast, get_args

from edif.client.api import Api
from edif.core import errors
from edif.core.errors import AuthRefused, EdifError, SetupError
from edif.core.job import Rounding

_COMPARED = ("nnsight", "torch", "transformers")
_TRUST = (
    "If your operator gave you the file of an authority, set SSL_CERT_FILE to its path before Python starts."
)


class VersionsDiffer(UserWarning):
    """This program and the fabric use other versions of something that matters."""


def check_address(url: str) -> str:
    """The address as it is used, without a slash at its end.

    Raises:
        SetupError: it is no address of a fabric.
    """
    if not re.match(r"https?://[^/?#\s]+", url):
        raise SetupError(
            errors.FABRIC_UNREACHABLE,
            f"{url!r} is no address of a fabric.",
            "Name it as your operator did, with http:// or https:// in front.",
        )
    return url.rstrip("/")


def check_rounding(rounding: str | None) -> Rounding | None:
    """
    Raises:
        SetupError: floats cannot be rounded to that.
    """
    known = get_args(Rounding)
    if rounding is not None and rounding not in known:
        raise SetupError(
            errors.CONFIG_INVALID,
            f"Saved values cannot be rounded to {rounding!r}.",
            f"Call edif.connect(url, key, rounding=...) with one of {', '.join(map(repr, known))}, or without it.",
        )
    return cast("Rounding | None", rounding)


def check_fabric(api: Api) -> None:
    """Nothing is tried twice here: a wrong address is to be said at once.

    Raises:
        EdifError: nothing answers, or something else than a fabric.
    """
    try:
        pong = api.get("/ping", patience_s=0)
    except EdifError as error:
        raise SetupError(
            errors.FABRIC_UNREACHABLE,
            f"No fabric answers at {api.url}: {error.sentence}",
            _advice(error.sentence),
        ) from error
    if pong != "pong":
        raise SetupError(errors.FABRIC_UNREACHABLE, f"What answers at {api.url} is no fabric.")


def _advice(sentence: str) -> str | None:
    """What TLS itself says is of little help to most; None where the usual next step is as good as any."""
    if "CERTIFICATE_VERIFY_FAILED" in sentence:
        return _TRUST
    if "WRONG_VERSION_NUMBER" in sentence:
        return "This port does not speak TLS: try http:// in place of https://, or ask your operator for the address."
    return None


def check_key(api: Api, key: str | None) -> str:
    """Who the key belongs to.

    Raises:
        EdifError: the fabric wants a key and there is none, or it does not know this one.
    """
    try:
        email = api.get("/whoami", patience_s=0)["email"]
    except EdifError as error:
        if error.kind is errors.KEY_MISSING:
            raise AuthRefused(
                errors.KEY_MISSING,
                f"The fabric at {api.url} asks for a key, and none was given.",
                "Call edif.connect(url, key) with the key your operator gave you, or set EDIF_API_KEY.",
            ) from error
        raise
    if email is None:
        shown = f"{key[:8]}..." if key else ""
        raise AuthRefused(errors.KEY_UNKNOWN, f"The fabric at {api.url} does not know the key {shown!r}.")
    return str(email)


def check_versions(api: Api) -> None:
    """Warn of what may behave otherwise there than here.

    Raises:
        EdifError: traces of this nnsight do not run there.
    """
    there = api.get("/env", patience_s=0)
    packages = there["packages"]
    here = {name: _installed(name) for name in _COMPARED}
    if "nnsight" in packages and _pair(packages["nnsight"]) != _pair(here["nnsight"]):
        raise SetupError(
            errors.CLIENT_UNSUPPORTED,
            f"The fabric at {api.url} runs nnsight {packages['nnsight']}; you use {here['nnsight']}, whose traces it cannot run.",
            f"Run: pip install 'nnsight=={packages['nnsight']}'",
        )
    differ = [
        f"{name} {here[name]} here, {packages[name]} there"
        for name in _COMPARED
        if name in packages and _public(packages[name]) != _public(here[name])
    ]
    python = str(there["python_version"])
    if python and _pair(python) != _pair(platform.python_version()):
        differ.insert(0, f"Python {platform.python_version()} here, {python.split()[0]} there")
    if differ:
        warnings.warn(
            f"Versions differ: {'; '.join(differ)}. Traces travel as source and mostly work; if a model cannot be built here, or a trace "
            f"behaves otherwise than locally, install the fabric's versions{_command(packages, here)} (print(nnsight.compare()) shows all).",
            VersionsDiffer,
            stacklevel=4,
        )


def _command(there: dict[str, str], here: dict[str, str]) -> str:
    """What installs the fabric's versions of what differs and matters; nothing if only Python differs."""
    wanted = [
        f"'{name}=={_public(there[name])}'"
        for name in _COMPARED
        if name in there and _public(there[name]) != _public(here[name])
    ]
    return f": pip install {' '.join(wanted)}" if wanted else ""


def own_versions() -> dict[str, str]:
    """What this client is, as headers of a request."""
    return {"nnsight-version": _installed("nnsight"), "python-version": platform.python_version()}


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _public(text: Any) -> str:
    """A version without its local part: 2.13.0+cpu is 2.13.0."""
    return str(text).partition("+")[0]


def _pair(text: Any) -> list[str]:
    return str(text).split(".")[:2]
