"""Certificates for the tests, made with the ``openssl`` command: self-signed ones, and those of a small authority."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


@dataclass(frozen=True)
class Certificate:
    certificate: Path
    key: Path

    @property
    def flags(self) -> tuple[str, ...]:
        return "--tls-cert", str(self.certificate), "--tls-key", str(self.key)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def self_signed(folder: Path, name: str, *, password: str | None = None) -> Certificate:
    """A certificate for the DNS name ``name``, signed by itself."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    lock = ("-noenc",) if password is None else ("-passout", f"pass:{password}")
    _openssl(
        "req", "-x509", *_CURVE, *lock, "-days", 2, "-subj", f"/CN={name}",
        "-addext", f"subjectAltName=DNS:{name}", "-keyout", made.key, "-out", made.certificate,
    )  # fmt: skip
    return made


def authority(folder: Path) -> Certificate:
    """A private certificate authority."""
    return self_signed(folder, "authority")


def signed_by(ca: Certificate, folder: Path, name: str, names: str) -> Certificate:
    """A certificate for ``names`` (as in ``IP:127.0.0.1,DNS:localhost``), followed by that of its authority."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    request = folder / f"{name}.csr"
    _openssl("req", *_CURVE, "-noenc", "-subj", f"/CN={name}", "-keyout", made.key, "-out", request)
    extensions = folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n")
    _openssl(
        "x509", "-req", "-in", request, "-CA", ca.certificate, "-CAkey", ca.key, "-days", 2,
        "-extfile", extensions, "-out", made.certificate,
    )  # fmt: skip
    made.certificate.write_text(made.certificate.read_text() + ca.certificate.read_text())
    return made
