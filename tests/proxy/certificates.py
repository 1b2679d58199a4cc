"""Certificates that tests make, as the files that the proxy reads."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import trustme

from tests.processes import HOST

LONG_AGO: Final = datetime.now(UTC) - timedelta(days=3)


@dataclass(frozen=True, kw_only=True)
class Files:
    """A certificate and its key."""

    cert: Path
    key: Path

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--tls-cert", str(self.cert), "--tls-key", str(self.key))

    def replace(self, cert: "trustme.LeafCert") -> None:
        """Write others over them."""
        self.cert.write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))
        cert.private_key_pem.write_to_path(self.key)


def written(folder: Path, cert: trustme.LeafCert) -> Files:
    files = Files(cert=folder / "cert.pem", key=folder / "key.pem")
    files.replace(cert)
    return files


def issued(authority: trustme.CA, *, expired: bool = False) -> trustme.LeafCert:
    """Return a certificate for this machine, or one whose time is over."""
    if expired:
        return authority.issue_cert(HOST, not_before=LONG_AGO, not_after=LONG_AGO + timedelta(days=1))
    return authority.issue_cert(HOST)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Return a client's context, which knows no other authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context
