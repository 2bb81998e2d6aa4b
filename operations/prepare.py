"""What ``docker/compose.yaml`` wants beside it: a secret a file, a certificate, the state's folder, ``.env``."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from core.files import write_atomically, write_text
from core.secret_files import PRIVATE, make_secrets

CERTIFICATE_DAYS = 365
PORT = 8443
IMAGE_USER = 50000
"""The image's own user: containers run as it where root prepares them, and as whoever prepares them elsewhere."""


def prepare(folder: Path, host: str) -> list[str]:
    """Make what is missing; nothing that exists is changed.

    Args:
        folder: ``docker``, or where a copy of its files is.
        host: name of the proxy's host; a self-signed certificate is made for it, to be replaced by a real one.

    Returns:
        Names of the files made.
    """
    secrets = folder / "secrets"
    made = make_secrets(secrets)
    if not (secrets / "tls_key").exists():
        _certificate(secrets, host)
        made += ["tls_certificate", "tls_key"]
    state = folder / "state"
    state.mkdir(exist_ok=True)
    environment = folder / ".env"
    if not environment.exists():
        lines = {
            "CLOCK_UID": os.getuid() or IMAGE_USER,
            "CLOCK_GID": os.getgid() or IMAGE_USER,
            "CLOCK_STATE": state.resolve(),
            "CLOCK_PUBLIC_URL": f"https://{host}:{PORT}",
        }
        write_text(environment, "".join(f"{name}={value}\n" for name, value in lines.items()))
        made.append(".env")
    if os.getuid() == 0:  # files of root only, the containers could not read or write
        for path in (secrets, *secrets.iterdir(), state):
            if path.stat().st_uid == 0:
                os.chown(path, IMAGE_USER, IMAGE_USER)
    return made


def _certificate(folder: Path, host: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for file, content in {"tls_certificate": certificate.public_bytes(pem), "tls_key": private}.items():
        write_atomically(folder / file, lambda target, c=content: target.write_bytes(c), mode=PRIVATE)  # type: ignore[misc]
