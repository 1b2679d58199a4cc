"""The head of a request, from its bytes to one frozen value. Pure.

llhttp checks the header lines, with all its leniencies off. The request line and what frames the body are read here as
well, since llhttp takes more versions and codings than RFC 9112 allows. A head that may mean two things is refused.
"""

import re
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

import httptools

from otel_sessions.matchers import Headers, spelt

from .outgoing import Asked
from .shape import KEPT, Shape, shape_of, tokens

_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^\x00-\x20\x7f]+) ([!-~]+)")
_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
_VERSIONS: Final = {b"HTTP/1.0": "1.0", b"HTTP/1.1": "1.1"}
_BEGINNING: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+( |$)")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#@]+)([/?#].*)?")
_USUAL: Final = frozenset({b"GET", b"POST", b"DELETE", b"OPTIONS", b"PUT", b"HEAD", b"PATCH"})
"""Methods that most requests have. llhttp knows the others."""
_CONTROLS: Final = bytes([*range(0x21), 0x7F])
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


class Head(NamedTuple):
    """A request's head. Names of headers are in lower case; `length` is that of the body in bytes, None if chunked.

    `target` is the path and the query as the client wrote them. The authority of an absolute target stands in the
    header `host` instead (RFC 9112, 3.2.2). `asked` is how the client can read an answer. A named tuple, because a
    frozen dataclass takes six times as long to make.
    """

    method: str
    target: bytes
    version: str
    headers: Headers
    shape: Shape
    length: int | None
    asked: Asked
    is_websocket: bool
    expects_continue: bool


def read_head(raw: bytes) -> Head:
    """Return the head that `raw` is, up to and with its empty line. Raises `Malformed`."""
    if raw.count(b"\r\n") > _MOST_LINES:
        raise Malformed(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request has at most {_MOST_LINES} header lines")
    line = read_line(raw[: raw.index(b"\r\n")])
    headers = read_headers(raw)
    return head_of(line, headers, shape_of(headers))


def head_of(line: tuple[bytes, bytes, str], headers: Headers, shape: Shape) -> Head:
    """Return a head from the parts of its request line, and its headers. Raises `Malformed`."""
    method, target, version = line
    if _is_misspelt(shape):
        raise Malformed(HTTPStatus.BAD_REQUEST, "a header that frames the request is misspelt")
    length = _length(shape, headers, version)
    is_websocket = version == "1.1" and b"upgrade" in shape.tokens and _says(shape, headers, b"upgrade", b"websocket")
    if is_websocket and (method != b"GET" or length != 0):
        raise Malformed(HTTPStatus.BAD_REQUEST, "a WebSocket handshake is a GET without a body")
    hosts = len(shape.at.get(b"host", ()))
    if hosts > 1 or (version == "1.1" and not hosts):
        raise Malformed(HTTPStatus.BAD_REQUEST, "a request has exactly one Host")
    if target[:1] not in (b"/", b"*"):
        target, headers = _relative(target, headers)
        shape = shape_of(headers)
    asked = Asked(method == b"HEAD", version, version == "1.1" and b"close" not in shape.tokens)
    expects_continue = version == "1.1" and _says(shape, headers, b"expect", b"100-continue")
    return Head(method.decode("ascii"), target, version, headers, shape, length, asked, is_websocket, expects_continue)


def check_beginning(raw: bytes) -> None:
    """Look at a head that is not whole yet. Raises `Malformed` if no head begins like this."""
    line, ended, _ = raw.partition(b"\r\n")
    if ended:
        read_line(line)
    elif not _BEGINNING.match(raw):
        raise Malformed(HTTPStatus.BAD_REQUEST, "this is no request of HTTP/1.1")
    if raw.count(b"\n") != raw.count(b"\r\n"):
        raise Malformed(HTTPStatus.BAD_REQUEST, "a line ends in CR and LF")


def read_line(line: bytes) -> tuple[bytes, bytes, str]:
    """Return the method, the target and the version of a request line. Raises `Malformed`."""
    method, _, rest = line.partition(b" ")
    target, _, protocol = rest.partition(b" ")
    # What the pattern says, at a part of its cost.
    if target and protocol == b"HTTP/1.1" and method in _USUAL and target.translate(None, _CONTROLS) == target:
        return method, target, "1.1"
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


def read_headers(raw: bytes) -> Headers:
    """Return the headers of a whole head, as llhttp reads them. Raises `Malformed`."""
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


@lru_cache(KEPT)
def _is_misspelt(shape: Shape) -> bool:
    """Return whether a server may take a name for another name that frames the request."""
    return any(name not in _FRAMING and spelt(name) in _FRAMING for name in shape.names)


def _says(shape: Shape, headers: Headers, name: bytes, token: bytes) -> bool:
    return name in shape.at and token in tokens(shape.values(headers, name))


def _length(shape: Shape, headers: Headers, version: str) -> int | None:
    """Return the length of the body, None if it is chunked (RFC 9112, 6.3). Raises `Malformed`."""
    lengths, codings = shape.at.get(b"content-length"), shape.at.get(b"transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise Malformed(HTTPStatus.BAD_REQUEST, "a request has Content-Length or Transfer-Encoding, not both")
        if version == "1.0":
            raise Malformed(HTTPStatus.BAD_REQUEST, "a request of HTTP/1.0 has no Transfer-Encoding")
        if len(codings) != 1 or headers[codings[0]][1].lower() != b"chunked":
            raise Malformed(HTTPStatus.NOT_IMPLEMENTED, "this proxy takes no transfer coding but chunked")
        return None
    if lengths is None:
        return 0
    if len(lengths) != 1 or not _LENGTH.fullmatch(headers[lengths[0]][1]):
        raise Malformed(HTTPStatus.BAD_REQUEST, "Content-Length is one number")
    return int(headers[lengths[0]][1])


def _relative(target: bytes, headers: Headers) -> tuple[bytes, Headers]:
    """Return the path of an absolute target, and the headers with the target's authority as Host."""
    parts = _ABSOLUTE.fullmatch(target)
    if parts is None:
        raise Malformed(HTTPStatus.BAD_REQUEST, "a target is a path or an absolute http URL without a user")
    authority, rest = parts[1], parts[2] or b"/"
    kept = [(name, value) for name, value in headers if name != b"host"]
    return rest if rest.startswith(b"/") else b"/" + rest, [(b"host", authority), *kept]
