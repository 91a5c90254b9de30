"""Certificates for tests."""

import os

from tests.server.processes import run
from tests.services.binaries import find

__all__ = ["write_certificate"]


def write_certificate(folder: str, name: str) -> tuple[str, str]:
    """Make a self-signed certificate.

    :returns: The paths of the certificate and of its key, both in PEM.
    """
    certificate, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    new = ["req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    run([find("openssl"), *new, *kind, "-keyout", key, "-out", certificate], folder)
    return certificate, key
