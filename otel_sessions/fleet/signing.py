"""What a process says when it passes an exchange on, signed with the secret of the fleet. Pure.

The signature covers all that decides what happens at the other process: the method, the target, the session, the
client, and for which process the exchange is meant. It does not cover the other headers and the body: use TLS between
the processes where others can read or change what they send. The answer is signed, too, for exactly this request. So no
other service at a peer's address is taken for a peer.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from hashlib import blake2b
from hmac import compare_digest
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

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
_LEAST_BYTES: Final = 16
_SIGNATURE_BYTES: Final = 32
_NO_CLIENT: Final = "-"
"""In place of the port of a client without an address."""


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


class Passage(NamedTuple):
    """One exchange on its way from one process to another.

    `owner` is the process that it is meant for. `epoch` is the number of the owner's membership, 0 where there is no
    such number. `hop` counts the times that the exchange was passed on. `expires` is in seconds since 1970. A named
    tuple, because a frozen dataclass takes six times as long to make.
    """

    owner: str
    session_id: str
    scheme: str
    client: tuple[str, int] | None
    expires: int
    epoch: int = 0
    hop: int = 1


class Proof:
    """The signature of one request. It signs the answer to this request, and knows the signed answer.

    Two proofs are equal if they are of the same request, signed with the same secret.
    """

    __slots__ = ("_keyed", "_mac", "_owned")

    def __init__(self, keyed: blake2b, mac: bytes) -> None:
        self._keyed = keyed
        self._mac = mac
        self._owned: bytes | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proof) and self._mac == other._mac

    def __hash__(self) -> int:
        return hash(self._mac)

    @property
    def by_owner(self) -> bytes:
        """The header of an answer of the owner, without more to say. It is found once."""
        if self._owned is None:
            self._owned = self.answer(Word.OWNER)
        return self._owned

    def answer(self, word: Word, name: str = "") -> bytes:
        """Return the header of an answer."""
        return self._signed(f"{word} {name}".encode())

    def said_in(self, headers: Headers) -> tuple[Word, str] | None:
        """Return what the header of an answer says, or None if no process of the fleet has signed the answer."""
        found = named(headers)
        if len(found) != 1:
            return None
        value = found[0][1]
        said = value.rpartition(b" ")[0]
        if not compare_digest(value, self._signed(said)):
            return None
        word, _, name = said.decode().partition(" ")
        return Word(word), name

    def _signed(self, said: bytes) -> bytes:
        return b"%b %b" % (said, _mac(self._keyed, b"answer %b %b" % (self._mac, said)))


def named(headers: Headers) -> Headers:
    """Return the headers of an answer that have the name `HEADER`, however it is written."""
    return [pair for pair in headers if len(pair[0]) == _SIZE and pair[0].lower() == HEADER]


def expiry(now: float) -> int:
    """Return when a signature that is made now expires, in seconds since 1970."""
    return (int(now) + VALID_SECONDS) // _STEP_SECONDS * _STEP_SECONDS


def same_expiry(now: float) -> tuple[int, int]:
    """Return the seconds since 1970 from which on, and before which, signatures expire as one that is made now."""
    since = expiry(now) - VALID_SECONDS
    return since, since + _STEP_SECONDS


class Secrets:
    """The secrets of a fleet: the first one signs, all of them are accepted. So a secret can be replaced step by step.

    Raises `ConfigError` if there is no secret, or a secret has fewer than 16 bytes.
    """

    def __init__(self, secrets: Iterable[bytes]) -> None:
        given = tuple(secrets)
        self.keys: Final[Sequence[bytes]] = tuple(blake2b(secret).digest() for secret in given)
        if not given or min(map(len, given)) < _LEAST_BYTES:
            raise ConfigError(f"secret takes one or more secrets of at least {_LEAST_BYTES} bytes each")
        self._keyed: Final = tuple(blake2b(key=key, digest_size=_SIGNATURE_BYTES) for key in self.keys)

    def sign(self, passage: Passage, method: str, target: bytes) -> tuple[bytes, Proof]:
        """Return the header of a forwarded request, and the proof that its answer must have."""
        said = _said(passage)
        keyed = self._keyed[0]
        mac = _mac(keyed, _framed(said, method, target))
        return b"%b,%b" % (said, mac), Proof(keyed, mac)

    def check(self, value: bytes, method: str, target: bytes, now: float) -> tuple[Passage, Proof] | None:
        """Return what a header says, or None if it is not signed or not valid any more. `now` is in seconds since 1970.

        Only exchanges that were passed on once are accepted, so no exchange goes round.
        """
        said, _, signed = value.rpartition(b",")
        framed = _framed(said, method, target)
        for keyed in self._keyed:
            mac = _mac(keyed, framed)
            if compare_digest(mac, signed):
                passage = _passage(said)
                is_valid = passage.hop == 1 and now <= passage.expires
                return (passage, Proof(keyed, mac)) if is_valid else None
        return None


def _said(passage: Passage) -> bytes:
    """Return a passage as visible ASCII, with a comma between two fields."""
    owner, session_id, scheme, client, expires, epoch, hop = passage
    host, port = ("", _NO_CLIENT) if client is None else (_written(client[0]), client[1])
    what = f"{_written(owner)},{_written(session_id)},{_written(scheme)}"
    return f"{what},{host},{port},{expires},{epoch},{hop}".encode("ascii")


def _passage(said: bytes) -> Passage:
    owner, session_id, scheme, host, port, expires, epoch, hop = said.decode("ascii").split(",")
    client = None if port == _NO_CLIENT else (_read(host), int(port))
    return Passage(_read(owner), _read(session_id), _read(scheme), client, int(expires), int(epoch), int(hop))


def _written(text: str) -> str:
    """Return a text in visible ASCII without a comma. Most texts are so already."""
    if text.isascii() and text.isprintable() and not (" " in text or "," in text or "%" in text):
        return text
    return quote(text, safe="", errors="surrogatepass")


def _read(text: str) -> str:
    return unquote(text, errors="surrogatepass") if "%" in text else text


def _framed(said: bytes, method: str, target: bytes) -> bytes:
    """Return what the signature of a request covers. The lengths in front say where each part ends."""
    verb = method.encode("utf-8", "surrogateescape")
    return b"request %d %d %b%b%b" % (len(verb), len(target), verb, target, said)


def _mac(keyed: blake2b, said: bytes) -> bytes:
    """Return a signature: keyed BLAKE2b (RFC 7693), which costs a tenth of an HMAC here.

    `keyed` has read the key already, and is copied for each signature.
    """
    signing = keyed.copy()
    signing.update(said)
    return signing.hexdigest().encode("ascii")
