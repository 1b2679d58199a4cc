"""What a process says when it passes an exchange on, signed with the secret of the fleet. Pure.

The signature covers all that decides what happens at the other process: the method, the target, the session, the
client, and for which process the exchange is meant. It does not cover the other headers and the body: use TLS between
the processes where others can read or change what they send. The answer is signed, too, for exactly this request. So no
other service at a peer's address is taken for a peer.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from hmac import compare_digest
from typing import Final, TypeVar

from otel_sessions._core.exceptions import ConfigError
from otel_sessions.matchers import Headers

HEADER: Final = b"otel-sessions-fleet"
"""The header of a forwarded request, and of its answer. No client and no app may send it."""
_SIZE: Final = len(HEADER)
ANYONE: Final = ""
"""In place of the owner's name: the question who takes requests at an address."""
VALID_SECONDS: Final = 60
"""How long a signature is valid at most. The clocks of two processes may differ by 50 seconds."""
_STEP_SECONDS: Final = 10
"""The times at which signatures expire. So the same request of a client has the same signature for a while."""
_MOST_KEPT: Final = 512
_LONGEST_KEPT: Final = 2048
_LONGEST_WORD: Final = 64
"""How many signatures are remembered, and how many bytes they, and the words of answers, may have."""
_LEAST_BYTES: Final = 16
_SIGNATURE_BYTES: Final = 32


class Word(StrEnum):
    """What a process says of itself in the header of its answer."""

    OWNER = "owner"
    """The answer is the answer of the session's owner."""
    NOT_OWNER = "not-owner"
    """The process has another name, or does not have the session."""
    PEER = "peer"
    """The answer to a question for the name of the process. The name follows."""


REFUSED: Final = b"refused"
"""What a process says that does not accept a signature. It is not signed: the two processes share no secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """One exchange on its way from one process to another.

    `owner` is the process that it is meant for. `epoch` is the number of the owner's membership, 0 where there is no
    such number. `hop` counts the times that the exchange was passed on. `expires` is in seconds since 1970.
    """

    owner: str
    session_id: str
    scheme: str
    client: tuple[str, int] | None
    expires: int
    epoch: int = 0
    hop: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """The signature of one request. It signs the answer to this request, and knows the signed answer."""

    key: bytes
    mac: bytes

    def answer(self, word: Word, name: str = "") -> bytes:
        """Return the header of an answer."""
        return _answer(self.key, self.mac, f"{word} {name}".encode())

    def said_in(self, headers: Headers) -> tuple[Word, str] | None:
        """Return what the header of an answer says, or None if no process of the fleet has signed the answer."""
        found = named(headers)
        if len(found) != 1:
            return None
        value = found[0][1]
        said = value.rpartition(b" ")[0]
        answer = _answer if len(said) <= _LONGEST_WORD else _answer_anew
        if not compare_digest(value, answer(self.key, self.mac, said)):
            return None
        word, _, name = said.decode().partition(" ")
        return Word(word), name


def named(headers: Headers) -> Headers:
    """Return the headers of an answer that have the name `HEADER`, however it is written."""
    return [pair for pair in headers if len(pair[0]) == _SIZE and pair[0].lower() == HEADER]


def expiry(now: float) -> int:
    """Return when a signature that is made now expires, in seconds since 1970."""
    return (int(now) + VALID_SECONDS) // _STEP_SECONDS * _STEP_SECONDS


def _answer_anew(key: bytes, mac: bytes, said: bytes) -> bytes:
    return said + b" " + _mac(key, b"answer", said, mac)


_answer: Final = lru_cache(_MOST_KEPT)(_answer_anew)


class Secrets:
    """The secrets of a fleet: the first one signs, all of them are accepted. So a secret can be replaced step by step.

    Raises `ConfigError` if there is no secret, or a secret has fewer than 16 bytes.
    """

    def __init__(self, secrets: Iterable[bytes]) -> None:
        given = tuple(secrets)
        self.keys: Final[Sequence[bytes]] = tuple(blake2b(secret).digest() for secret in given)
        if not given or min(map(len, given)) < _LEAST_BYTES:
            raise ConfigError(f"secret takes one or more secrets of at least {_LEAST_BYTES} bytes each")
        self._signed: Final[dict[_Signed, tuple[bytes, Proof]]] = {}
        self._checked: Final[dict[_Checked, tuple[Passage, Proof]]] = {}

    def sign(self, passage: Passage, method: str, target: bytes) -> tuple[bytes, Proof]:
        """Return the header of a forwarded request, and the proof that its answer must have."""
        asked = (passage, method, target)
        signed = self._signed.get(asked)
        if signed is None:
            payload = urlsafe_b64encode(_encode(_said(passage)).encode())
            proof = _proof(self.keys[0], payload, method, target)
            signed = payload + b"." + proof.mac, proof
            if len(payload) + len(target) <= _LONGEST_KEPT:
                _keep(self._signed, asked, signed)
        return signed

    def check(self, value: bytes, method: str, target: bytes, now: float) -> tuple[Passage, Proof] | None:
        """Return what a header says, or None if it is not signed or not valid any more. `now` is in seconds since 1970.

        Only exchanges that were passed on once are accepted, so no exchange goes round.
        """
        asked = (value, method, target)
        checked = self._checked.get(asked)
        if checked is None:
            checked = self._check_anew(value, method, target)
            if checked is None:
                return None
            if len(value) + len(target) <= _LONGEST_KEPT:
                _keep(self._checked, asked, checked)
        passage = checked[0]
        return checked if passage.hop == 1 and now <= passage.expires else None

    def _check_anew(self, value: bytes, method: str, target: bytes) -> tuple[Passage, Proof] | None:
        payload, _, mac = value.partition(b".")
        for key in self.keys:
            proof = _proof(key, payload, method, target)
            if compare_digest(proof.mac, mac):
                return _passage(payload), proof
        return None


_Signed = tuple[Passage, str, bytes]
_Checked = tuple[bytes, str, bytes]
_K = TypeVar("_K")
_V = TypeVar("_V")


def _keep(kept: dict[_K, _V], key: _K, value: _V) -> None:
    if len(kept) >= _MOST_KEPT:
        kept.clear()
    kept[key] = value


_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def _said(passage: Passage) -> tuple[object, ...]:
    client = passage.client
    return (
        *(passage.owner, passage.session_id, passage.scheme, client, passage.expires),
        *(passage.epoch, passage.hop),
    )


def _passage(payload: bytes) -> Passage:
    owner, session_id, scheme, client, expires, epoch, hop = json.loads(urlsafe_b64decode(payload))
    return Passage(
        owner=owner,
        session_id=session_id,
        scheme=scheme,
        client=None if client is None else (client[0], client[1]),
        expires=expires,
        epoch=epoch,
        hop=hop,
    )


def _proof(key: bytes, payload: bytes, method: str, target: bytes) -> Proof:
    return Proof(key=key, mac=_mac(key, b"request", method.encode("utf-8", "surrogateescape"), target, payload))


def _mac(key: bytes, *parts: bytes) -> bytes:
    """Return the signature of several parts: keyed BLAKE2b (RFC 7693), which costs a tenth of an HMAC here.

    No two lists of parts have the same bytes, since each part begins with its length.
    """
    framed = b"".join([b"%d:%b" % (len(part), part) for part in parts])
    return blake2b(framed, key=key, digest_size=_SIGNATURE_BYTES).hexdigest().encode()
