"""TLS for all stores: certificate and host name are always verified."""

from __future__ import annotations

import ssl
from functools import cached_property
from pathlib import Path
from typing import Protocol

from node_timeout.domain.errors import SettingsError
from node_timeout.older_python import Self
from node_timeout.setting_rules import variable
from node_timeout.urls.redaction import causes, redact

# OpenSSL's codes for "not signed by a trusted authority".
UNKNOWN_AUTHORITY = {18, 19, 20, 21}
# OpenSSL's reasons when the answer is not TLS.
NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}


class TlsFiles(Protocol):
    """The settings for TLS."""

    @property
    def tls_ca_file(self) -> Path | None: ...

    @property
    def tls_cert_file(self) -> Path | None: ...

    @property
    def tls_key_file(self) -> Path | None: ...

    @property
    def database_tls(self) -> bool: ...


class Tls:
    """The authorities to trust and the certificate to present; whether ``database`` uses TLS."""

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        database: bool = False,
    ) -> None:
        self.database = database
        self._ca_file = ca_file
        self._cert_file = cert_file
        self._key_file = key_file

    @classmethod
    def of(cls, settings: TlsFiles) -> Self:
        return cls(
            ca_file=settings.tls_ca_file,
            cert_file=settings.tls_cert_file,
            key_file=settings.tls_key_file,
            database=settings.database_tls,
        )

    @cached_property
    def context(self) -> ssl.SSLContext:
        """One for all connections, built when a store first needs it. Raises `SettingsError`."""
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{variable('tls_ca_file')}: no certificates can be read from it: {_reason(error)}"
            ) from None
        if self._cert_file:
            try:
                # Without a password OpenSSL would prompt for one at the terminal, and wait.
                context.load_cert_chain(self._cert_file, self._key_file, password="")
            except (OSError, ValueError) as error:
                raise SettingsError(
                    f"{variable('tls_cert_file')}, {variable('tls_key_file')}: no certificate with "
                    f"its unencrypted key can be read from them: {_reason(error)}"
                ) from None
        return context


def reason_of(error: BaseException) -> str:
    """The text of a driver's error, without secrets.

    If TLS is the cause, however deep in the chain of errors, the text is that of TLS.
    """
    for each in causes(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            hint = ""
            if each.verify_code in UNKNOWN_AUTHORITY:
                hint = f"; is {variable('tls_ca_file')} right?"
            return f"its certificate is refused: {each.verify_message}{hint}"
        if isinstance(each, ssl.SSLError):
            hint = "; does the server talk TLS at this port?" if each.reason in NOT_TLS else ""
            return f"TLS failed: {_reason(each)}{hint}"
    return redact(str(error)) or type(error).__name__


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return str(reason or error or type(error).__name__)
