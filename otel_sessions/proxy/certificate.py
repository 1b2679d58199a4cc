"""A certificate of TLS, for clients or for peers: checked at the start, and read again when its files change.

Handshakes use `context`, so a new certificate changes nothing for connections that are open. Files that change into
something that cannot be used change nothing at all: the certificate before them stays, and one line of the log says so.
"""

import asyncio
import hashlib
import logging
import ssl
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import ConfigError
from otel_sessions._program.flags import naming

from . import fleet_options, options

_LOOK_SECONDS: Final = 10.0
_MOST_TURNS: Final = 4
"""How often each side of a handshake in memory has its turn; TLS 1.2 needs three."""
_MISMATCHES: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"})
_logger = logging.getLogger("otel_sessions.proxy")


class _Encrypted(Exception):
    """The key has a passphrase, which nobody could give again when the files change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags:
    """The flags that name the files of a certificate."""

    cert: str
    key: str


OF_CLIENTS: Final = Flags(cert=options.TLS_CERT.flag, key=options.TLS_KEY.flag)
OF_PEERS: Final = Flags(cert=fleet_options.PEER_TLS_CERT.flag, key=fleet_options.PEER_TLS_KEY.flag)


class Certificate:
    """A certificate with its chain and its key, by their files.

    Making one raises `ConfigError`, which names the flag, if the files cannot be used. A certificate that clients will
    refuse, because it has expired, is logged.
    """

    def __init__(self, cert: str, key: str, flags: Flags = OF_CLIENTS) -> None:
        self._cert = cert
        self._key = key
        self._flags = flags
        self._tried = self._before = self._state()
        self.context: ssl.SSLContext = self._load()
        """What the next handshake uses."""

    async def watch(self) -> None:
        """Look at the files every ten seconds, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Use the files if they have changed, and are the same as at the look before: then they are written whole."""
        state = self._state()
        is_settled, self._before = state == self._before, state
        if state == self._tried or not is_settled:
            return
        self._tried = state
        try:
            self.context = self._load()
        except Exception as error:
            _logger.warning(
                "the certificate stays as it was, since its files cannot be used: %s",
                error,
                extra=Event.CERTIFICATE_KEPT.extra,
            )
        else:
            _logger.info("the certificate was read again from %s", self._cert, extra=Event.CERTIFICATE_READ.extra)

    def _state(self) -> bytes | None:
        """Return what tells a change of the files, or None if they cannot be read."""
        with suppress(OSError):
            parts = [hashlib.sha256(_read(path)).digest() for path in (self._cert, self._key)]
            return b"".join(parts)
        return None

    def _load(self) -> ssl.SSLContext:
        context, text = _load(self._cert, self._key, self._flags)
        doubt = _doubt(context, text)
        if doubt is not None:
            _logger.warning(
                "clients will refuse the certificate in %s: %s",
                self._cert,
                doubt,
                extra=Event.CERTIFICATE_DOUBTFUL.extra,
            )
        return context


def _read(path: str) -> bytes:
    """Return what a file holds. Raises `OSError`, also for a pipe: it could not be read again."""
    file = Path(path)
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError("the path is no regular file")
    return file.read_bytes()


def _load(cert: str, key: str, flags: Flags) -> tuple[ssl.SSLContext, str]:
    """Return a context for servers, and the text of the certificate. Raises `ConfigError`."""
    with naming(flags.cert, cert):
        text = _read(cert).decode("ascii", "ignore")
    with naming(flags.key, key):
        _read(key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{flags.cert} {cert}: the file has no certificate in PEM") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, _refuse_to_decrypt)
    except _Encrypted:
        raise ConfigError(f"{flags.key} {key}: the key is encrypted; give a key without a passphrase") from None
    except ssl.SSLError as error:
        raise ConfigError(_why(cert, key, flags, error)) from None
    return context, text


def _refuse_to_decrypt() -> NoReturn:
    raise _Encrypted


def _why(cert: str, key: str, flags: Flags, error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if reason in _MISMATCHES:
        return f"{flags.key} {key}: the key does not belong to the first certificate in {cert}"
    if "SMALL" in reason or "WEAK" in reason:
        return f"{flags.cert} {cert}: the certificate is too weak ({reason})"
    return f"{flags.key} {key}: the file has no private key in PEM"


def _doubt(server: ssl.SSLContext, certificate: str) -> str | None:
    """Return why a client that trusts the certificate refuses it all the same, or None: by a handshake in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=certificate)
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    there, here = client.wrap_bio(outward, inward), server.wrap_bio(inward, outward, server_side=True)
    try:
        for side in [there, here] * _MOST_TURNS:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except ssl.SSLError as error:
        return error.reason
    return None


def certificate_of(cert: str | None, key: str | None, flags: Flags) -> Certificate | None:
    """Return the certificate of these files, or None if there are none. Raises as `Certificate`."""
    return None if cert is None or key is None else Certificate(cert, key, flags)
