"""TLS: what the gateway shows, and whom the agent and the command line of this fabric trust.

The gateway's own machine reaches it by an address (127.0.0.1) that its certificate need not name, and the certificate
may be signed by nobody. So processes of this machine trust exactly the configured certificate, read from its file,
and no other, whatever name it bears. All others verify as usual: chain and name, against ``tls_ca`` or the system's
authorities.
"""

import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from edif.core import errors
from edif.core.addresses import is_loopback
from edif.core.errors import SetupError
from edif.launch.data_folder import DataFolder
from edif.settings import Settings

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def server_files(settings: Settings) -> tuple[Path, ...]:
    """Certificate and key of the gateway; nothing without TLS.

    Raises:
        SetupError: only one of them is set.
    """
    files = tuple(path for path in (settings.tls_cert, settings.tls_key) if path is not None)
    if len(files) == 1:
        raise SetupError(errors.TLS_INVALID, "Of tls_cert and tls_key only one is set.")
    return files


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What the gateway shows its clients: TLS 1.2 or newer.

    Raises:
        SetupError: a file is missing, cannot be read, is no PEM, or the two do not belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _first_certificate(certificate)
    _text(key)
    try:
        # An empty password, for without one OpenSSL would ask the terminal for it.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise SetupError(
            errors.TLS_INVALID,
            f"The key {str(key)!r} does not fit the certificate {str(certificate)!r}, "
            f"or has a password: {_reason(error)}.",
        ) from error
    return context


def client_context(settings: Settings, folder: DataFolder, url: str) -> ssl.SSLContext | None:
    """Whom a process of this fabric trusts that asks the gateway at ``url``; None for a URL without TLS.

    Raises:
        SetupError: a file of certificates is missing or does not fit.
    """
    if not url.startswith("https:"):
        return None
    if (own := _own_certificate(settings, folder, url)) is not None:
        return _trusting_only(own)
    if settings.tls_ca is not None:
        _first_certificate(settings.tls_ca)
        return ssl.create_default_context(cafile=str(settings.tls_ca))
    return ssl.create_default_context()


def client_files(settings: Settings, folder: DataFolder, url: str) -> tuple[Path, ...]:
    """The files that :func:`client_context` reads."""
    file = _own_certificate(settings, folder, url) or settings.tls_ca
    return () if file is None else (file,)


def _own_certificate(settings: Settings, folder: DataFolder, url: str) -> Path | None:
    """The certificate of the gateway at ``url``, if that is the one of this machine's data folder."""
    facts = folder.facts("gateway")
    if facts is not None and facts["url"] == url:
        return Path(facts["certificate"]) if facts.get("certificate") else None
    # An agent that starts while its gateway is being started again finds no facts, but has the same settings.
    host = urlsplit(url).hostname or ""
    return settings.tls_cert if is_loopback(host) or host == settings.host else None


def _trusting_only(certificate: Path) -> ssl.SSLContext:
    """Trust in the first certificate of the file, and in nothing that another one of the file has signed.

    Its name is not compared: who shows it has its key, which says more than a name.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=_first_certificate(certificate))
    return context


def _first_certificate(path: Path) -> str:
    """The first certificate in a PEM file: the server's own, where a chain follows it.

    Raises:
        SetupError: there is none, or it is damaged.
    """
    match = _CERTIFICATE.search(_text(path))
    if match is None:
        raise SetupError(errors.TLS_INVALID, f"The file {str(path)!r} holds no PEM certificate.")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=match[0])
    except ssl.SSLError as error:
        raise SetupError(
            errors.TLS_INVALID, f"The certificate in {str(path)!r} is damaged: {_reason(error)}."
        ) from error
    return match[0]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise SetupError(
            errors.TLS_INVALID, f"The file {str(path)!r} cannot be read: {error.strerror}."
        ) from error


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
