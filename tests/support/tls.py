"""Cheaper client processes: the stock client reads all of the world's certificates for every HTTP call.

That takes 40 ms of processor time each, more than a small job. On loopback, without TLS, one certificate will
do as well.
"""

from pathlib import Path

import certifi

_END = "-----END CERTIFICATE-----"


def light_certificates(folder: Path) -> dict[str, str]:
    """The variables that have httpx load one certificate instead of all."""
    whole = Path(certifi.where()).read_text()
    begin = whole.index("-----BEGIN CERTIFICATE-----")
    path = folder / "one-certificate.pem"
    path.write_text(whole[begin : whole.index(_END, begin) + len(_END)] + "\n")
    return {"SSL_CERT_FILE": str(path)}
