"""What answers at the addresses of a store, where its client cannot be opened and does not tell why.

What always holds: no credentials are sent, and nothing is raised. What is found lasts: somebody has to change a
setting, of the fleet or of the server.
"""

import ssl
from collections.abc import Mapping
from typing import Final

import anyio
from anyio.abc import ByteStream

from .store_clients import Way, tls_of
from .store_errors import explain_certificate
from .store_url import Server

_MOST_BYTES: Final = 1024
_MARKS: Final = tuple(bytes([mark]) for mark in b"+-*$:_%")
"""How an answer of a Valkey or Redis begins."""
_BROKEN: Final = (OSError, anyio.EndOfStream, anyio.BrokenResourceError)
"""What a connection raises that cannot be made, or that ends. An error of TLS is an `OSError`."""


async def find_wrong_setting(way: Way) -> str | None:
    """Return one line for people: which setting is wrong, and what to do. None if the servers show nothing wrong.

    It takes as long as the servers let it wait, so the caller limits it.
    """
    for server in way.url.servers:
        if (found := await _look_at(server, way)) is not None:
            return found
    return None


async def _look_at(server: Server, way: Way) -> str | None:
    answer = await _ask_in_the_clear(server, way)
    context = tls_of(way)
    if answer.startswith(_MARKS):
        if context is not None:
            return f"the server at {server} speaks no TLS; give the URL as valkey:// or redis://"
        return _judge(answer, server, way)
    if await _speaks_tls(server):
        if context is not None:
            return await _look_through_tls(server, way, context)
        return f"the server at {server} speaks TLS; give the URL as valkeys:// or rediss://"
    return _no_store(server) if answer else None


async def _look_through_tls(server: Server, way: Way, context: ssl.SSLContext) -> str | None:
    try:
        async with await _connect_tls(server, context) as stream:
            answer = await _ask(stream, way)
    except ssl.SSLCertVerificationError as error:
        return explain_certificate(error)
    except _BROKEN:
        return (
            f"the server at {server} ends each connection after the handshake; if it asks for a certificate, "
            "give one in tls, or set its tls-auth-clients to no"
        )
    return _judge(answer, server, way) if answer.startswith(_MARKS) else _no_store(server)


def _judge(answer: bytes, server: Server, way: Way) -> str | None:
    for start, text in _wrong_answers(way).items():
        if answer.startswith(start):
            return text.format(server)
    return None


def _wrong_answers(way: Way) -> Mapping[bytes, str]:
    """Return what is wrong, by how an answer to the question begins."""
    wrong = {b"-DENIED": "the server at {} is in protected mode, which refuses other machines; set a password there"}
    if way.cluster:
        text = "the server at {} is no node of a Cluster; leave out cluster (--fleet-cluster)"
        return {**wrong, b"-ERR unknown command": text, b"-ERR This instance has cluster support disabled": text}
    if way.sentinel is None:
        return wrong
    name = repr(way.sentinel).replace("{", "{{").replace("}", "}}")
    unknown = "the Sentinel at {} knows no primary " + name + "; check sentinel (--fleet-sentinel)"
    closed = "the Sentinel at {} asks for a password, which is not supported; let it answer without"
    return {
        **wrong,
        b"*-1": unknown,
        b"-ERR unknown command": "the server at {} is no Sentinel; leave out sentinel (--fleet-sentinel)",
        b"-NOAUTH": closed,
        b"-NOPERM": closed,
    }


def _no_store(server: Server) -> str:
    return f"what answers at {server} is no Valkey or Redis; check the host and the port"


def _question(way: Way) -> bytes:
    """Return a command that tells one kind of store from another."""
    if way.cluster:
        return _command("CLUSTER", "MYID")
    if way.sentinel is not None:
        return _command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", way.sentinel)
    return _command("PING")


def _command(*words: str) -> bytes:
    """Return a command as a Valkey takes it (RESP: an array of strings, each with its length)."""
    coded = [word.encode() for word in words]
    return b"*%d\r\n" % len(coded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in coded)


async def _ask_in_the_clear(server: Server, way: Way) -> bytes:
    """Return how the answer begins; nothing if there is none."""
    try:
        async with await anyio.connect_tcp(server.host, server.port) as stream:
            return await _ask(stream, way)
    except _BROKEN:
        return b""


async def _ask(stream: ByteStream, way: Way) -> bytes:
    await stream.send(_question(way))
    return await stream.receive(_MOST_BYTES)


async def _speaks_tls(server: Server) -> bool:
    """Return whether a server takes a handshake. Nothing is sent through it, so its certificate does not matter."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    try:
        async with await _connect_tls(server, anybody):
            return True
    except _BROKEN as error:
        return "ALERT" in str(error)  # the server's own refusal is TLS, too


async def _connect_tls(server: Server, context: ssl.SSLContext) -> ByteStream:
    return await anyio.connect_tcp(server.host, server.port, ssl_context=context, tls_standard_compatible=False)
