"""The head of a request, from its bytes to one frozen value. Pure.

llhttp checks the header lines, with all its leniencies off. The request line and what frames the body are read here as
well, since llhttp takes more versions and codings than RFC 9112 allows. A head that may mean two things is refused.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import httptools

from otel_sessions.matchers import Headers, spelt

_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^\x00-\x20\x7f]+) ([!-~]+)")
_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
_VERSIONS: Final = {b"HTTP/1.0": "1.0", b"HTTP/1.1": "1.1"}
_BEGINNING: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+( |$)")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#@]+)([/?#].*)?")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_FRAMING: Final = frozenset({b"content-length", b"host", b"transfer-encoding"})
_MOST_LINES: Final = 500
"""How many header lines a head has at most: each costs memory and time, however short it is."""
END: Final = b"\r\n\r\n"
"""What ends a head."""


class Malformed(Exception):
    """A request cannot be read, so that nobody knows where the next one begins: its connection has to close."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """A request's head. Names of headers are in lower case; `length` is that of the body in bytes, None if chunked.

    `target` is the path and the query as the client wrote them. The authority of an absolute target stands in the
    header `host` instead (RFC 9112, 3.2.2).
    """

    method: str
    target: bytes
    version: str
    headers: Headers
    length: int | None
    keeps_alive: bool
    is_websocket: bool
    expects_continue: bool


def read_head(raw: bytes) -> Head:
    """Return the head that `raw` is, up to and with its empty line. Raises `Malformed`."""
    if raw.count(b"\r\n") > _MOST_LINES:
        raise Malformed(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request has at most {_MOST_LINES} header lines")
    method, target, version = _read_line(raw[: raw.index(b"\r\n")])
    headers = _read_headers(raw)
    said = _collect(headers)
    length = _length(said, version)
    tokens = _tokens(said.get(b"connection", ()))
    is_websocket = version == "1.1" and b"upgrade" in tokens and b"websocket" in _tokens(said.get(b"upgrade", ()))
    if is_websocket and (method != b"GET" or length != 0):
        raise Malformed(HTTPStatus.BAD_REQUEST, "a WebSocket handshake is a GET without a body")
    hosts = said.get(b"host", ())
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise Malformed(HTTPStatus.BAD_REQUEST, "a request has exactly one Host")
    if target[:1] not in (b"/", b"*"):
        target, headers = _relative(target, headers)
    return Head(
        method=method.decode("ascii"),
        target=target,
        version=version,
        headers=headers,
        length=length,
        keeps_alive=version == "1.1" and b"close" not in tokens,
        is_websocket=is_websocket,
        expects_continue=version == "1.1" and b"100-continue" in _tokens(said.get(b"expect", ())),
    )


def check_beginning(raw: bytes) -> None:
    """Look at a head that is not whole yet. Raises `Malformed` if no head begins like this."""
    line, ended, _ = raw.partition(b"\r\n")
    if ended:
        _read_line(line)
    elif not _BEGINNING.match(raw):
        raise Malformed(HTTPStatus.BAD_REQUEST, "this is no request of HTTP/1.1")
    if raw.count(b"\n") != raw.count(b"\r\n"):
        raise Malformed(HTTPStatus.BAD_REQUEST, "a line ends in CR and LF")


def _read_line(line: bytes) -> tuple[bytes, bytes, str]:
    parts = _LINE.fullmatch(line)
    if parts is None:
        raise Malformed(HTTPStatus.BAD_REQUEST, "a request line is a method, a target and HTTP/1.1")
    method, target, protocol = parts.groups()
    version = _VERSIONS.get(protocol)
    if version is None and _VERSION.fullmatch(protocol):
        raise Malformed(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this proxy speaks HTTP/1.1 and HTTP/1.0")
    if version is None:
        raise Malformed(HTTPStatus.BAD_REQUEST, "a request line ends in HTTP/1.1")
    if method == b"CONNECT":
        raise Malformed(HTTPStatus.NOT_IMPLEMENTED, "this proxy makes no tunnels")
    return method, target, version


class _Reader:
    """What llhttp tells of one head."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.is_whole = True


def _read_headers(raw: bytes) -> Headers:
    reader = _Reader()
    try:
        httptools.HttpRequestParser(reader).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # what is behind the head is framed as that of every other request
    except httptools.HttpParserInvalidMethodError:
        raise Malformed(HTTPStatus.NOT_IMPLEMENTED, "this proxy does not know the method") from None
    except httptools.HttpParserError as error:
        raise Malformed(HTTPStatus.BAD_REQUEST, f"the head is malformed: {error}") from None
    if not reader.is_whole:
        raise Malformed(HTTPStatus.BAD_REQUEST, "the head is malformed")
    return reader.headers


def _collect(headers: Headers) -> dict[bytes, list[bytes]]:
    """Return the values by name. Raises `Malformed` for a name that a server may take for one that frames."""
    said: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name not in _FRAMING and spelt(name) in _FRAMING:
            raise Malformed(HTTPStatus.BAD_REQUEST, "a header that frames the request is misspelt")
        said.setdefault(name, []).append(value)
    return said


def _length(said: dict[bytes, list[bytes]], version: str) -> int | None:
    """Return the length of the body, None if it is chunked (RFC 9112, 6.3). Raises `Malformed`."""
    lengths, codings = said.get(b"content-length"), said.get(b"transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise Malformed(HTTPStatus.BAD_REQUEST, "a request has Content-Length or Transfer-Encoding, not both")
        if version == "1.0":
            raise Malformed(HTTPStatus.BAD_REQUEST, "a request of HTTP/1.0 has no Transfer-Encoding")
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise Malformed(HTTPStatus.NOT_IMPLEMENTED, "this proxy takes no transfer coding but chunked")
        return None
    if lengths is None:
        return 0
    if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Malformed(HTTPStatus.BAD_REQUEST, "Content-Length is one number")
    return int(lengths[0])


def _tokens(values: list[bytes] | tuple[()]) -> set[bytes]:
    return {token.strip().lower() for value in values for token in value.split(b",")}


def _relative(target: bytes, headers: Headers) -> tuple[bytes, Headers]:
    """Return the path of an absolute target, and the headers with the target's authority as Host."""
    parts = _ABSOLUTE.fullmatch(target)
    if parts is None:
        raise Malformed(HTTPStatus.BAD_REQUEST, "a target is a path or an absolute http URL without a user")
    authority, rest = parts[1], parts[2] or b"/"
    kept = [(name, value) for name, value in headers if name != b"host"]
    return rest if rest.startswith(b"/") else b"/" + rest, [(b"host", authority), *kept]
