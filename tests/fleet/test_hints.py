"""Hints in the ids of an app that makes ids: what clients see, and what the app and the manager see."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_sessions import SessionManager
from otel_sessions.asgi import SESSION, SessionLeaseMiddleware
from otel_sessions.asgi._hints import HintingMatcher
from otel_sessions.fleet import StaticPeers
from otel_sessions.matchers import AdoptingMatcher, McpMatcher
from tests.exchanges import Client, http, initializing

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
ID = "mcp-session-id"


class Mcp:
    """An app that makes an id, repeats it in each answer, and notes the ids that it was sent."""

    def __init__(self, own: str = "abc") -> None:
        self.own = own
        self.sent: list[list[str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.sent.append([value.decode("latin-1") for name, value in scope["headers"] if name == ID.encode()])
        headers = [(ID.encode(), self.own.encode("latin-1"))]
        status = 200 if self.sent[-1] in ([], [self.own]) else 404
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": str(scope[SESSION] and scope[SESSION].id).encode()})


class Process:
    """A process `w1` with this app."""

    def __init__(self, own: str = "abc") -> None:
        fleet = StaticPeers({"w1": "http://127.0.0.1:1"}, name="w1", secret="a secret of the whole fleet")
        self.app = Mcp(own)
        self.manager: SessionManager[Any] = SessionManager(fleet=fleet)
        self.middleware = SessionLeaseMiddleware(self.app, self.manager, McpMatcher(hint=True))

    async def opened(self) -> str:
        client = await initializing().go(self.middleware)
        (named,) = client.headers(ID.encode())
        return named.decode("latin-1")

    async def asked(self, session_id: str) -> Client:
        return await Client(http("GET", **{ID.replace("-", "_"): session_id})).go(self.middleware)


@pytest.mark.parametrize("own", ["abc", "w1.abc", "w2.abc", "a.b.c", ".", "!~", "x" * 1000])
async def test_the_client_gets_a_hint_in_front_and_the_app_gets_its_own_id(own: str) -> None:
    process = Process(own)
    async with process.manager:
        named = await process.opened()
        assert named == f"w1.{own}"
        assert process.manager.get(own) is not None
        answer = await process.asked(named)
        assert answer.status == 200
        assert process.app.sent == [[], [own]]
        assert answer.headers(ID.encode()) == [named.encode()]


async def test_an_id_without_its_hint_works_where_its_session_is() -> None:
    process = Process()
    async with process.manager:
        await process.opened()
        answer = await process.asked("abc")
        assert answer.status == 200
        assert answer.headers(ID.encode()) == [b"w1.abc"]


@pytest.mark.parametrize("wrong", ["w1.w1.abc", "w2.abc", ".abc", "w1.", "w1", "W1.abc", "w1.abcd"])
async def test_an_id_with_another_hint_or_two_hints_is_unknown(wrong: str) -> None:
    process = Process()
    async with process.manager:
        await process.opened()
        assert (await process.asked(wrong)).status == 404
        assert process.app.sent == [[]]


async def test_an_id_that_the_app_ends_is_ended_here_too() -> None:
    process = Process()
    async with process.manager:
        named = await process.opened()
        ending = Client(http("DELETE", **{ID.replace("-", "_"): named}))
        assert (await ending.go(process.middleware)).status == 200
        assert len(process.manager) == 0


class Odd(AdoptingMatcher):
    """A matcher that answers every question in a way of its own."""

    request_header = b"x-odd"
    hint = True

    def __init__(self) -> None:
        self.own = McpMatcher()

    def match(self, scope: Any) -> Any:
        return self.own.match(scope)

    def towards_app(self, headers: Any, session_id: str | None) -> Any:
        return [(b"x-odd", b"in")]

    def body_opens(self, start: bytes, complete: bool) -> bool | None:
        return None if complete else False

    def id_in_answer(self, headers: Any) -> str | None:
        return "named"

    def establishes(self, status: int) -> bool:
        return status == 299

    def ends(self, scope: Any, status: int) -> bool:
        return status == 298

    def announce(self, session_id: str, scope: Any, headers: Any) -> Any:
        return [(b"x-odd", session_id.encode())]

    def withhold(self, headers: Any) -> Any:
        return []


async def test_a_matcher_with_hints_answers_all_other_questions_as_before() -> None:
    odd, hinting = Odd(), HintingMatcher(Odd(), lambda: "w1")
    assert hinting.request_header == odd.request_header
    assert hinting.towards_app([], "x") == odd.towards_app([], "x")
    assert [hinting.body_opens(b"", complete) for complete in (True, False)] == [None, False]
    assert hinting.id_in_answer([]) == "named"
    assert [hinting.establishes(status) for status in (200, 299)] == [False, True]
    assert [hinting.ends({}, status) for status in (200, 298)] == [False, True]
    assert hinting.withhold([(b"x-odd", b"y")]) == []
    assert hinting.announce("x", {}, []) == [(b"x-odd", b"w1.x")]


@given(st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), min_size=1, max_size=3))
def test_a_matcher_takes_the_hint_off_each_id(anyio_backend: str, own: list[str]) -> None:
    scope = http("GET")
    scope["headers"] = [(ID.encode(), f"w1.{one}".encode()) for one in own]
    assert HintingMatcher(McpMatcher(), lambda: "w1").match(scope).session_ids == tuple(dict.fromkeys(own))


async def test_a_forked_process_takes_its_own_hint_off_and_no_other(anyio_backend: str) -> None:
    names = ["before"]
    hinting = HintingMatcher(McpMatcher(), lambda: names[-1])
    assert hinting.own_id("before.a") == "a"
    names.append("after")
    hinting.start_anew_after_fork()
    assert [hinting.own_id(one) for one in ("before.a", "after.a")] == ["before.a", "a"]
    assert hinting.announce("a", {}, []) == [(ID.encode(), b"after.a")]


async def test_the_hint_is_taken_off_each_of_several_ids(anyio_backend: str) -> None:
    scope = http("GET")
    scope["headers"] = [(ID.encode(), one) for one in (b"w1.a", b"w2.b", b"w1.w1.c", b"d")]
    match = HintingMatcher(McpMatcher(), lambda: "w1").match(scope)
    assert match.session_ids == ("a", "w2.b", "w1.c", "d")
