"""Requests to the admin API, one connection each, and what can go wrong on the way.

Every failure is a `Refused`, whose text says what to do and whose `status` is the exit status of the command. Nothing
is asked twice, except when the API says that it is asked too fast.
"""

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from otel_sessions._program.signals import interruptible

from .target import Target

NOT_DONE: Final = 1
"""The exit status if the API answers, and something that was asked for did not happen."""
NO_ANSWER: Final = 3
"""The exit status if no admin API answers there."""
NOT_ALLOWED: Final = 4
"""The exit status if the API does not let us in."""
PAGE: Final = 200
"""How many sessions are asked for at once: the most that the API gives."""
_TIMEOUT: Final = 30.0
"""Seconds without a word from the API. Ends are waited for, `close_timeout` seconds at most."""
_MOST_WAITS: Final = 60
_LONGEST_WAIT: Final = 5.0
_MOST_BYTES: Final = 16_777_216
_MOST_DIGITS: Final = 10
_TOKEN: Final = "give the token with --admin-token-file or OTEL_SESSIONS_ADMIN_TOKEN"  # noqa: S105  # says how
_NO_API: Final = "this is not an admin API; give its address with --admin, as otel-sessions proxy --admin has it"

Parameters = Mapping[str, object]


class Refused(Exception):
    """The API did not do what was asked. The text says why and what to do."""

    def __init__(self, text: str, status: int = NOT_DONE, *, is_missing: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.is_missing = is_missing
        """Whether the session that was asked for does not exist."""


class Api:
    """The admin API at `target`. Every method raises `Refused`."""

    def __init__(self, target: Target, wait: Callable[[float], object] = time.sleep) -> None:
        self.url: Final = target.url
        self._target = target
        self._wait = wait
        self.unreached: dict[str, str] = {}
        """Why each process was not reached that the answers so far name."""

    def statistics(self) -> dict[str, Any]:
        return self._ask("GET", "/v1/stats", expected="total_created")

    def config(self) -> dict[str, Any]:
        return self._ask("GET", "/v1/config", expected="settings")

    def sessions(self, filters: Parameters) -> Iterator[dict[str, Any]]:
        """Yield the sessions, oldest first, page by page. Each session that stays comes exactly once."""
        after: str | None = None
        while True:
            page = self._ask("GET", "/v1/sessions", {**filters, "limit": PAGE, "after": after}, expected="sessions")
            yield from page["sessions"]
            if (after := page.get("next")) is None:
                return

    def end(self, fingerprint: str) -> int:
        """End a session, and return how many were ended: 1."""
        return int(self._ask("DELETE", f"/v1/sessions/{quote(fingerprint, safe='')}", expected="ended")["ended"])

    def end_client(self, client: str) -> int:
        """End all sessions of a client, and return how many were ended."""
        return int(self._ask("DELETE", "/v1/sessions", {"client": client}, expected="ended")["ended"])

    def clean_up(self, limits: Parameters) -> dict[str, Any]:
        """Run a pass, and return its report."""
        return self._ask("POST", "/v1/cleanup", body=limits, expected="cleaned")

    def preview(self, limits: Parameters) -> dict[str, Any]:
        """Return the report of a pass that ends nothing."""
        return self._ask("POST", "/v1/cleanup", {"preview": "true"}, body=limits, expected="cleaned")

    def _ask(
        self, method: str, path: str, query: Parameters | None = None, *, body: Parameters | None = None, expected: str
    ) -> dict[str, Any]:
        """Return an answer, which has the key `expected`."""
        given = {key: value for key, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        for _ in range(_MOST_WAITS):
            status, headers, content = self._exchange(method, target, body)
            if status != HTTPStatus.TOO_MANY_REQUESTS:
                break
            self._wait(_seconds(headers.get("retry-after")))
        return self._understood(status, content, expected)

    def _exchange(
        self, method: str, target: str, body: Parameters | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        parts = urlsplit(self._target.url)
        headers = {"accept": "application/json", "content-type": "application/json"}
        if self._target.token is not None:
            headers["authorization"] = f"Bearer {self._target.token}"
        sent = None if body is None else json.dumps(body)
        connection = self._connection()
        try:
            return interruptible(lambda: _answer(connection, method, parts.path + target, sent, headers))
        except ssl.SSLError as error:
            raise Refused(f"{self.url}: no TLS: {_of_tls(error)}", NO_ANSWER) from error
        except TimeoutError as error:
            raise Refused(f"{self.url}: no answer within {_TIMEOUT:g} seconds", NO_ANSWER) from error
        except http.client.HTTPException as error:
            raise Refused(f"{self.url}: {_NO_API} (the answer is no HTTP)", NO_ANSWER) from error
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Refused(
                f"{self.url}: nothing answers there ({reason}); does the proxy run, and with --admin?", NO_ANSWER
            ) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._target.url)
        host = parts.hostname or ""
        if self._target.is_encrypted:
            tls = ssl.create_default_context()  # it obeys SSL_CERT_FILE and SSL_CERT_DIR
            return http.client.HTTPSConnection(host, parts.port, timeout=_TIMEOUT, context=tls)
        return http.client.HTTPConnection(host, parts.port, timeout=_TIMEOUT)

    def _understood(self, status: int, content: bytes, expected: str) -> dict[str, Any]:
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Refused(f"{self.url}: {_NO_API} (it answered with status {status})", NO_ANSWER)
        if status == HTTPStatus.OK and expected in answer:
            self.unreached |= unreached_in(answer)
            return answer
        raise self._refusal(status, answer)

    def _refusal(self, status: int, answer: Mapping[str, Any]) -> Refused:
        detail = answer.get("detail")
        if not isinstance(detail, str) or answer.get("status") != status:
            return Refused(f"{self.url}: {_NO_API} (it answered with status {status})", NO_ANSWER)
        if status == HTTPStatus.UNAUTHORIZED:
            wrong = "it needs a token" if self._target.token is None else "the token is wrong"
            return Refused(f"{self.url}: {wrong}; {_TOKEN}", NOT_ALLOWED)
        if status in (HTTPStatus.FORBIDDEN, HTTPStatus.MISDIRECTED_REQUEST):
            return Refused(f"{self.url}: {detail}", NOT_ALLOWED)
        return Refused(f"{self.url}: {detail}", is_missing=status == HTTPStatus.NOT_FOUND)


def _answer(
    connection: http.client.HTTPConnection, method: str, target: str, body: str | None, headers: Mapping[str, str]
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection.request(method, target, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read(_MOST_BYTES)


def unreached_in(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return why each process was not reached that an answer names."""
    return {one["name"]: one["error"] for one in answer.get("processes", ()) if not one["reached"]}


def _seconds(retry_after: str | None) -> float:
    """Return how long to wait before the next request."""
    told = retry_after or ""
    return min(float(told), _LONGEST_WAIT) if told.isdecimal() and len(told) < _MOST_DIGITS else 1.0


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.verify_message}; SSL_CERT_FILE can name the certificate of its authority"
    return f"{error.reason or 'the connection ended'}; does the API speak TLS there? If not, use http://"
