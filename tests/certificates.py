"""A certificate authority for one test run, and certificates of it: good ones and bad ones."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trustme

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
EXPIRED = datetime(2020, 2, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """PEM, and the files it is in."""

    certificate: bytes
    key: bytes
    cert_file: Path
    key_file: Path


class Authority:
    """``ca_file`` has its own certificate."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self._directory = directory
        self._count = 0
        self.pem = self._ca.cert_pem.bytes()
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(self.pem)

    def issue(self, name: str, *, expired: bool = False) -> Certificate:
        """For a server of this host name, or for a client."""
        issued = self._ca.issue_cert(
            name,
            not_before=LONG_AGO if expired else None,
            not_after=EXPIRED if expired else None,
        )
        self._count += 1
        made = Certificate(
            certificate=b"".join(blob.bytes() for blob in issued.cert_chain_pems),
            key=issued.private_key_pem.bytes(),
            cert_file=self._directory / f"{self._count}-cert.pem",
            key_file=self._directory / f"{self._count}-key.pem",
        )
        made.cert_file.write_bytes(made.certificate)
        made.key_file.write_bytes(made.key)
        return made

    def server_context(self, name: str) -> ssl.SSLContext:
        issued = self.issue(name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.cert_file, issued.key_file)
        return context
