"""Streams: what in them is a use of a session, when a silent one ends, and cookies that are sent again."""

from contextlib import suppress
from typing import Any

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import given

from otel_sessions import ConfigError, Session, SessionManager
from otel_sessions.asgi import ASGIApp, Message, Receive, Scope, Send, SessionLeaseMiddleware, session_of
from otel_sessions.asgi._events import Events
from otel_sessions.matchers import CookieMatcher, HeaderMatcher, McpMatcher, SessionMatcher
from tests.exchanges import Client, http, http_body, initializing

pytestmark = pytest.mark.anyio

EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
LAST: Message = {"type": "http.response.body", "body": b"", "more_body": False}


class Saying:
    """An app that reads its request, then answers part by part, with a pause before each."""

    def __init__(self, *parts: bytes, pause: float = 0, headers: tuple[tuple[bytes, bytes], ...] = (EVENTS,)) -> None:
        self._parts = parts
        self._pause = pause
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": list(self._headers)})
        for part in self._parts:
            await anyio.sleep(self._pause)
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send(dict(LAST))


def asking(**headers: str) -> Client:
    return Client(http(x_session_id="s", **headers))


LINES = st.sampled_from([b": ping", b":", b"", b"data: 1", b"id: 7", b" : no comment"])


class TestWhatCountsAsAMessage:
    """What counts as a message of a session."""

    @pytest.mark.parametrize(
        ("parts", "messages"),
        [
            ([], 1),
            ([b"data: 1\n\n"], 2),
            ([b"data: 1\n\n", b": ping\n\n", b"data: 2\n\n"], 3),
            ([b": ping\r\n\r\n", b":\n", b"\n"], 1),
            ([b": pi", b"ng\n\n"], 1),
            ([b": ping\n", b"data: 1\n\n"], 2),
            ([b": ping\ndata: 1\n\n"], 2),
            ([b"data", b": 1", b"\n\n"], 3),
            ([b"data: 1\n: comment", b" goes on: data\n\n"], 2),
            ([b""], 1),
        ],
    )
    async def test_each_part_of_an_event_stream_that_is_more_than_comments_counts(
        self, manager: SessionManager[None], session: Session[None], parts: list[bytes], messages: int
    ) -> None:
        await asking().go(SessionLeaseMiddleware(Saying(*parts), manager))

        assert session.metadata.message_count == messages

    async def test_each_part_of_a_coded_event_stream_counts_since_nobody_can_read_it(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        app = Saying(b"\x1f\x8b", b":\n", b"", headers=(EVENTS, (b"Content-Encoding", b"gzip")))

        await asking().go(SessionLeaseMiddleware(app, manager))

        assert session.metadata.message_count == 3

    @pytest.mark.parametrize("kind", [b"text/plain", b"application/json"])
    async def test_an_ordinary_answer_in_many_parts_is_one_message(
        self, manager: SessionManager[None], session: Session[None], kind: bytes
    ) -> None:
        app = Saying(b"a", b"b", b"c", headers=((b"content-type", kind),))

        await asking().go(SessionLeaseMiddleware(app, manager))

        assert session.metadata.message_count == 1

    async def test_an_ordinary_request_in_many_parts_is_one_message_and_each_part_is_activity(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        seen: list[float] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            more = True
            while more:
                await anyio.sleep(10)
                more = (await receive())["more_body"]
                seen.append((session.metadata.last_activity - session.metadata.created_at).total_seconds())
            await send({"type": "http.response.start", "status": 200})

        client = Client(http("POST", x_session_id="s"), [http_body(b"x", more=more) for more in (True, True, False)])
        await client.go(SessionLeaseMiddleware(app, manager))

        assert session.metadata.message_count == 1
        assert seen == pytest.approx([10, 20, 20], abs=0.01)

    async def test_each_message_of_a_websocket_counts_once(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        async def echo(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})

        says: list[Message] = [{"type": "websocket.connect"}]
        says += [{"type": "websocket.receive", "text": "hello"}] * 2
        says += [{"type": "websocket.disconnect"}]

        await Client({**http(x_session_id="s"), "type": "websocket"}, says).go(SessionLeaseMiddleware(echo, manager))

        assert session.metadata.message_count == 5  # the handshake, two there, two back

    @given(
        st.lists(LINES, max_size=6), st.sampled_from([b"\n", b"\r", b"\r\n"]), st.lists(st.integers(0, 60), max_size=4)
    )
    def test_wherever_a_stream_is_cut_comments_are_comments_and_nothing_else_is(
        self, lines: list[bytes], line_end: bytes, cuts: list[int]
    ) -> None:
        stream = b"".join(line + line_end for line in lines)
        ends = sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)})
        events = Events()

        found = [events.has_more_than_comments(stream[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

        assert any(found) is any(line and not line.startswith(b":") for line in lines)
        assert events.has_more_than_comments(b": ping\n\n") is False
        assert events.has_more_than_comments(b"data: 1\n\n") is True


class TestSilence:
    """How long a stream may be silent."""

    async def test_an_event_stream_with_comments_alone_ends_in_order_after_the_timeout(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        app = Saying(b"data: 1\n\n", *[b": ping\n\n"] * 100, pause=10)
        client = asking()

        await client.go(SessionLeaseMiddleware(app, manager, stream_idle_timeout=35))

        assert client.sent[-1] == LAST
        assert len(client.sent) == 6  # the start, an event, three comments, the end
        assert manager.get_metrics().leased == 0
        assert manager.get("s") is session

    async def test_a_stream_on_which_something_passes_goes_on(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        client = asking()

        await client.go(
            SessionLeaseMiddleware(Saying(*[b"data: 1\n\n"] * 9, pause=30), manager, stream_idle_timeout=35)
        )

        assert len(client.sent) == 11

    async def test_an_app_that_is_slow_to_answer_is_no_silent_stream(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await anyio.sleep(500)
            await Saying(b"data: 1\n\n")(scope, receive, send)

        client = asking()

        await client.go(SessionLeaseMiddleware(slow, manager, stream_idle_timeout=35))

        assert client.sent[1]["body"] == b"data: 1\n\n"

    async def test_any_other_silent_answer_stays_incomplete_so_that_nobody_takes_it_for_whole(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        client = asking()

        await client.go(
            SessionLeaseMiddleware(Saying(b"half", b"whole", pause=20, headers=()), manager, stream_idle_timeout=15)
        )

        assert [message["type"] for message in client.sent] == ["http.response.start"]

    async def test_a_silent_websocket_is_closed_with_1001(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        async def silent(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await anyio.sleep_forever()

        says: list[Message] = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]
        client = Client({**http(x_session_id="s"), "type": "websocket"}, says)

        with anyio.fail_after(40):
            await client.go(SessionLeaseMiddleware(silent, manager, stream_idle_timeout=35))

        assert client.sent[-1] == {"type": "websocket.close", "code": 1001}

    async def test_what_a_client_says_keeps_its_websocket_open(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        class Talking(Client):
            async def receive(self) -> Message:
                await anyio.sleep(30)
                return await super().receive()

        async def listening(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass

        says: list[Message] = [{"type": "websocket.receive", "text": "hello"}] * 5
        client = Talking({**http(x_session_id="s"), "type": "websocket"}, [*says, {"type": "websocket.disconnect"}])

        await client.go(SessionLeaseMiddleware(listening, manager, stream_idle_timeout=35))

        assert client.kinds == ["websocket.accept"]

    async def test_a_silent_stream_in_no_session_ends_too(self, manager: SessionManager[None]) -> None:
        client = Client(http("GET"))

        await client.go(
            SessionLeaseMiddleware(
                Saying(*[b": ping\n\n"] * 9, pause=10), manager, McpMatcher(), stream_idle_timeout=35
            )
        )

        assert client.sent[-1] == LAST
        assert len(client.sent) == 5

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), True, "35"])
    def test_a_timeout_that_is_no_time_is_refused(self, seconds: Any) -> None:
        with pytest.raises(ConfigError, match="stream_idle_timeout takes a positive, finite number of seconds"):
            SessionLeaseMiddleware(Saying(), SessionManager(), stream_idle_timeout=seconds)

    @pytest.mark.parametrize("kind", ["http", "websocket"])
    async def test_what_an_app_does_after_its_answer_is_not_cut_short(
        self, manager: SessionManager[None], session: Session[None], kind: str
    ) -> None:
        done = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if kind == "http":
                await Saying(b"data: 1\n\n")(scope, receive, send)
            else:
                await send({"type": "websocket.accept"})
                await send({"type": "websocket.close"})
            await anyio.sleep(100)
            done.append("background")

        await Client({**http(x_session_id="s"), "type": kind}).go(
            SessionLeaseMiddleware(app, manager, stream_idle_timeout=35)
        )

        assert done == ["background"]

    async def test_a_websocket_whose_client_has_left_may_be_tidied_up(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        done = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.accept"})
            assert (await receive())["type"] == "websocket.disconnect"
            await anyio.sleep(100)
            done.append("tidy")

        client = Client({**http(x_session_id="s"), "type": "websocket"}, [{"type": "websocket.disconnect"}])
        await client.go(SessionLeaseMiddleware(app, manager, stream_idle_timeout=35))

        assert done == ["tidy"]

    @pytest.mark.parametrize("kind", ["http", "websocket"])
    async def test_a_silent_stream_ends_though_its_client_has_stopped_reading(
        self, manager: SessionManager[None], session: Session[None], kind: str
    ) -> None:
        class Deaf(Client):
            async def send(self, message: Message) -> None:
                await super().send(message)
                if len(self.sent) > 1:
                    await anyio.sleep_forever()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            start = {"type": "http.response.start", "status": 200, "headers": [EVENTS]}
            await send(start if kind == "http" else {"type": "websocket.accept"})
            await anyio.sleep_forever()

        with anyio.fail_after(60):
            await Deaf({**http(x_session_id="s"), "type": kind}).go(
                SessionLeaseMiddleware(app, manager, stream_idle_timeout=35)
            )

        assert manager.get_metrics().leased == 0

    @pytest.mark.parametrize("part", [memoryview(b"data: 1\n\n"), bytearray(b"data: 1\n\n")])
    async def test_a_part_may_be_any_kind_of_bytes(
        self, manager: SessionManager[None], session: Session[None], part: Any
    ) -> None:
        client = asking()

        await client.go(SessionLeaseMiddleware(Saying(part), manager))

        assert client.sent[1]["body"] is part
        assert session.metadata.message_count == 2

    async def test_an_answer_that_tells_its_length_is_no_stream(
        self, manager: SessionManager[None], session: Session[None]
    ) -> None:
        client = asking()
        app = Saying(b"a", b"b", pause=100, headers=((b"Content-Length", b"2"),))

        await client.go(SessionLeaseMiddleware(app, manager, stream_idle_timeout=35))

        assert client.body == b"ab"


def cookie(client: Client) -> list[bytes]:
    return client.headers(b"set-cookie")


class Lossy(Client):
    """A client that is gone before the start of the answer gets to it, as a server shows it: in one of three ways."""

    how = "raises"

    async def receive(self) -> Message:
        if self.how == "disconnects" and not self.says:
            return {"type": "websocket.disconnect" if self.scope["type"] == "websocket" else "http.disconnect"}
        return await super().receive()

    async def send(self, message: Message) -> None:
        if self.how == "raises":
            raise OSError("the connection is closed")
        if self.how == "hangs":
            await anyio.sleep_forever()
        await super().send(message)


LOSSES = ["raises", "hangs", "disconnects"]


async def lose(client: Lossy, how: str, app: ASGIApp) -> None:
    client.how = how
    with anyio.move_on_after(1), suppress(OSError):
        await client.go(app)


async def patient(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that hears of its client before it answers."""
    await receive()
    with anyio.move_on_after(0.5):
        await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"mcp-session-id", b"of-the-app")]})
    await send({"type": "http.response.body", "body": b"done"})


class TestCookiesThatAreSentAgain:
    """Cookies that are sent again, so that browsers keep them."""

    async def test_a_cookie_in_use_is_sent_again_after_half_of_its_max_age(self, manager: SessionManager[None]) -> None:
        app = SessionLeaseMiddleware(Saying(), manager, CookieMatcher(max_age=100))
        (first,) = cookie(await Client(http()).go(app))
        told = first.split(b";")[0].decode()

        again = []
        for pause in (40, 9, 2, 40, 9, 2):
            await anyio.sleep(pause)
            again.append(cookie(await Client(http(cookie=told)).go(app)))

        assert again == [[], [], [first], [], [], [first]]

    @pytest.mark.parametrize("how", LOSSES)
    async def test_a_cookie_that_was_lost_with_its_answer_is_sent_again_with_the_next(
        self, manager: SessionManager[None], how: str
    ) -> None:
        await manager.create_session("s")
        app = SessionLeaseMiddleware(patient, manager, CookieMatcher(max_age=100))
        await anyio.sleep(60)

        await lose(Lossy(http(cookie="otel-session=s")), how, app)
        again = await Client(http(cookie="otel-session=s")).go(app)
        told = await Client(http(cookie="otel-session=s")).go(app)

        assert len(cookie(again)) == 1
        assert cookie(told) == []

    @pytest.mark.parametrize("how", LOSSES)
    @pytest.mark.parametrize("matcher", [HeaderMatcher(), CookieMatcher(), McpMatcher()])
    async def test_an_opening_whose_answer_was_lost_leaves_no_session(
        self, manager: SessionManager[None], matcher: SessionMatcher, how: str
    ) -> None:
        opening = initializing()

        await lose(Lossy(opening.scope, opening.says), how, SessionLeaseMiddleware(patient, manager, matcher))

        stats = manager.get_metrics()
        assert (stats.total_created, stats.currently_active, stats.reserved, stats.leased) == (1, 0, 0, 0)

    @pytest.mark.parametrize("how", LOSSES)
    async def test_a_websocket_whose_acceptance_was_lost_leaves_no_session(
        self, manager: SessionManager[None], how: str
    ) -> None:
        client = Lossy({**http(), "type": "websocket"}, [{"type": "websocket.connect"}])

        await lose(client, how, SessionLeaseMiddleware(patient, manager))

        stats = manager.get_metrics()
        assert (stats.total_created, stats.currently_active, stats.leased) == (1, 0, 0)

    async def test_an_answer_that_sends_a_cookie_again_is_kept_out_of_shared_caches(
        self, manager: SessionManager[None]
    ) -> None:
        app = SessionLeaseMiddleware(
            Saying(headers=((b"cache-control", b"public"),)), manager, CookieMatcher(max_age=10)
        )
        first = await Client(http()).go(app)
        told = cookie(first)[0].split(b";")[0].decode()

        used = await Client(http(cookie=told)).go(app)
        await anyio.sleep(6)
        again = await Client(http(cookie=told)).go(app)

        said = [client.headers(b"cache-control") for client in (first, used, again)]
        assert said == [[b"private"], [b"public"], [b"private"]]

    @pytest.mark.parametrize("opens", [False, True])
    async def test_a_session_that_the_app_has_ended_is_announced_to_nobody(
        self, manager: SessionManager[None], opens: bool
    ) -> None:
        await manager.create_session("s")

        async def logout(scope: Scope, receive: Receive, send: Send) -> None:
            session = session_of(scope)
            assert session is not None
            await manager.close_session(session.id)
            deleted = (b"set-cookie", b"otel-session=; Max-Age=0")
            await send({"type": "http.response.start", "status": 200, "headers": [deleted]})

        await anyio.sleep(60)
        client = await Client(http() if opens else http(cookie="otel-session=s")).go(
            SessionLeaseMiddleware(logout, manager, CookieMatcher(max_age=100))
        )

        assert cookie(client) == [b"otel-session=; Max-Age=0"]

    async def test_an_answer_that_refuses_sends_no_cookie_again(self, manager: SessionManager[None]) -> None:
        await manager.create_session("s")

        async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 403})

        await anyio.sleep(60)
        client = await Client(http(cookie="otel-session=s")).go(
            SessionLeaseMiddleware(refusing, manager, CookieMatcher(max_age=100))
        )

        assert cookie(client) == []

    async def test_what_is_known_of_cookies_is_bounded_by_the_live_sessions(
        self, manager: SessionManager[None]
    ) -> None:
        app = SessionLeaseMiddleware(Saying(), manager, CookieMatcher(max_age=10))

        for number in range(300):
            await manager.create_session(f"s{number}")
            await anyio.sleep(6)
            assert cookie(await Client(http(cookie=f"otel-session=s{number}")).go(app))
            await manager.close_session(f"s{number}")

        assert len(app._renewals._told_at) <= 66
