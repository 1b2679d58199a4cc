"""What the names of a head decide, against plain functions that look at each line anew."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from otel_sessions._http.hops import HOP_BY_HOP
from otel_sessions.matchers import Headers, McpMatcher, spelt
from otel_sessions.proxy.head import Head, Malformed, read_head
from otel_sessions.proxy.headers import Trust, end_to_end, towards_upstream
from otel_sessions.proxy.heads import Heads
from otel_sessions.proxy.rules import TARGET, Rules, Timeouts
from otel_sessions.proxy.shape import SHAPED, Shaped, shape_in, shape_of, shaped_in

NAMES = [
    *(b"accept", b"connection", b"content-length", b"forwarded", b"host", b"keep-alive", b"mcp-protocol-version"),
    *(b"mcp_protocol_version", b"te", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x_real_ip"),
    *(b"upgrade", b"via", b"x-one", b"x-real-ip", b"x-user", b"x.user", b"x_user"),
]
VALUES = [b"", b"1", b"close", b"Keep-Alive", b"X-One, te", b"x-user", b"mcp-protocol-version", b"http", b"10.0.0.9"]
headers = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=8)
TRUSTED, WORDS = (ip_network("10.0.0.0/8"),), frozenset({b"x-user"})
trusts = st.builds(Trust, networks=st.sampled_from([(), TRUSTED]), words=st.sampled_from([frozenset(), WORDS]))
senders = st.sampled_from(["10.0.0.5", "203.0.113.7"])


def named_by_connection(head: Headers) -> set[bytes]:
    return {token.strip().lower() for name, value in head if name == b"connection" for token in value.split(b",")}


def passing(head: Headers) -> Headers:
    """What RFC 9110, 7.6.1 lets pass, line by line."""
    dropped = HOP_BY_HOP | named_by_connection(head)
    return [pair for pair in head if pair[0] not in dropped]


def is_a_proxys_word(name: bytes, trust: Trust) -> bool:
    bare = spelt(name)
    return bare in trust.words or bare.startswith((b"forwarded", b"x-forwarded-", b"x-real-ip"))


def said_by_the_client(head: Headers, trust: Trust, trusted: bool) -> Headers:
    """What passes of a client's own words, line by line."""
    said = [pair for pair in passing(head) if pair[0] not in (b"host", b"x-forwarded-for")]
    if trusted:
        return [pair for pair in said if not is_a_proxys_word(pair[0], trust) or spelt(pair[0]) == pair[0]]
    return [pair for pair in said if not is_a_proxys_word(pair[0], trust)]


def is_ambiguous(head: Headers, trust: Trust) -> bool:
    """Whether two servers may read different values of a header that decides about a session."""
    for word in {b"mcp-protocol-version", *trust.words}:
        spellings = [name for name, _ in head if spelt(name) == word]
        if spellings and (spellings != [word] or word in named_by_connection(head)):
            return True
    return False


@given(headers)
def test_a_shape_says_where_each_name_stands(head: Headers) -> None:
    shape = shape_of(head)

    for name in NAMES:
        values = [value for found, value in head if found == name]
        assert shape.values(head, name) == values
        assert shape.first(head, name) == (values[0] if values else None)


@given(headers)
def test_a_shape_depends_on_the_names_alone(head: Headers) -> None:
    changed = [(name, value if name == b"connection" else b"another") for name, value in head]

    assert shape_of(head) is shape_of(changed)


@given(headers)
def test_no_header_about_one_connection_passes(head: Headers) -> None:
    assert end_to_end(head) == passing(head)


@given(headers, trusts, senders)
def test_the_upstream_gets_what_a_client_may_say(head: Headers, trust: Trust, sender: str) -> None:
    scope = {"type": "http", "scheme": "http", "client": (sender, 1), "headers": head}
    trusted = bool(trust.networks) and sender == "10.0.0.5"
    said = said_by_the_client(head, trust, trusted)

    sent = towards_upstream(scope, trust, b"upstream")

    assert sent[: len(said) + 1] == [(b"host", b"upstream"), *said]
    assert {name for name, _ in sent[len(said) + 1 :]} <= {
        *(b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto")
    }


@given(headers, trusts)
def test_a_request_is_refused_where_a_decisive_header_may_be_read_twice(head: Headers, trust: Trust) -> None:
    rules = Rules(trust=trust, timeouts=Timeouts(connect_timeout=1, idle_timeout=1))
    asked = [(b"host", b"h"), *[pair for pair in head if pair[0] != b"host"]]
    scope = {"type": "http", "client": ("10.0.0.5", 1), "path": "/mcp", "headers": asked}

    refused = rules.refusal(scope)

    assert (refused is not None and refused[1].startswith("the header ")) == is_ambiguous(asked, trust)


@given(headers, headers)
def test_a_shape_is_that_of_the_headers_that_a_scope_has_now(head: Headers, changed: Headers) -> None:
    scope = {"headers": head, SHAPED: Shaped(head, shape_of(head))}
    assert shape_in(scope) is shape_of(head)

    scope["headers"] = changed

    assert shape_in(scope) is shape_of(changed)


def test_a_head_with_many_or_long_names_has_a_shape_too() -> None:
    head = [(b"x" * 2000, b"1"), *((b"x-%d" % number, b"2") for number in range(400))]

    assert shape_of(head).first(head, b"x" * 2000) == b"1"
    assert shape_of(head).values(head, b"x-399") == [b"2"]
    assert shape_of(head) is not shape_of(head)  # it is not remembered


values_of_lines = st.one_of(
    st.sampled_from(
        ["", "a", "b", "12", "03", "chunked", "close", "websocket", "x\ty", " a ", "a\r\n b", "a\nX: b", "a\rb"]
    ),
    st.text(st.characters(max_codepoint=255), max_size=4),
)
KNOWN_LINES = [
    *("Host", "Traceparent", "traceparent", "X-Request-Id", "Cookie", "X-One", "Content-Length", "Transfer-Encoding"),
    *("Connection", "Proxy-Connection", "Upgrade", "Expect", "Content_Length", "Mcp-Session-Id"),
]
targets = st.sampled_from(["GET /", "GET /", "GET /", "POST /", "GET /a", "GET http://else/", "POST http://else/a"])
few_lines = st.lists(st.sampled_from(KNOWN_LINES), max_size=5)


def written(target: str, names: list[str], values: list[str]) -> bytes:
    said = "".join(f"{name}: {value}\r\n" for name, value in zip(names, values, strict=True))
    return f"{target} HTTP/1.1\r\n{said}\r\n".encode("latin-1")


def differing(names: list[str]) -> st.SearchStrategy[list[bytes]]:
    """Heads with the same names, most of which can be read."""
    good = {"Host": "h", "Content-Length": "3", "Transfer-Encoding": "chunked"}
    values = st.tuples(*[st.one_of(st.just(good.get(name, "a")), values_of_lines) for name in names]).map(list)
    return st.lists(st.builds(written, targets, st.just(names), values), min_size=2, max_size=6)


lines = st.sampled_from(["Host: h", "Host: other", "X-One: 1", "Content-Length: 3", "Connection: close", "X y: 1"])
heads = st.builds(
    lambda target, said, padding: f"GET {target} HTTP/1.1\r\n{said}X-Pad: {'p' * padding}\r\n\r\n".encode(),
    st.sampled_from(["/", "/a", "http://elsewhere/b"]),
    st.lists(lines, max_size=3).map(lambda said: "".join(f"{line}\r\n" for line in said)),
    st.sampled_from([0, 3000]),
)


few_heads = st.sampled_from(
    [written("GET /", ["Host", name], ["h", value]) for name in ("X-One", "Traceparent") for value in ("a", "b", "ab")]
)
TRACED = ["Host", "traceparent", "X-One", "X-Request-Id"]
traces = [
    [written("GET /", TRACED, ["h", *values]) for values in each]
    for each in (
        [("a", "1", "a"), ("b", "1", "a"), ("c", "1", "a"), ("c", "2", "a"), ("d", "2", "a")],
        [("a", "1", "a"), ("b", "1", "b"), ("c", "1", "c"), ("d", "1", "c"), ("e", "1", "c"), ("f", "1", "d")],
        *[
            [("a", "1", "a"), ("b", "1", "a"), (last, "1", "a"), ("c", "1", "a")]
            for last in ("", " \t", " b\t", "\xe9")
        ],
        *[[("a", "1", "a"), ("b", "1", "a"), (last, "1", "a")] for last in ("\0", "b\rc", "b\nc", "b\r\n c", "\x7f")],
    )
]
"""Heads of which the last ones differ in the same lines, or nearly so."""


def each_of(given_raws: list[list[bytes]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Test each list of heads, besides the lists that are made up."""

    def decorated(test: Callable[..., None]) -> Callable[..., None]:
        for raws in given_raws:
            test = example(raws)(test)
        return test

    return decorated


def taken(heads: Heads, raw: bytes) -> tuple[Head, Shaped]:
    """Return a head that comes as a whole."""
    found = heads.take(bytearray(raw))
    assert found is not None
    return found


def outcome(read: object, raw: bytes) -> object:
    assert callable(read)
    try:
        return read(raw)
    except Malformed as fault:
        return fault.status, fault.text


@given(
    st.lists(heads, max_size=3).flatmap(lambda few: st.lists(st.sampled_from(few), max_size=8) if few else st.just([]))
)
def test_a_head_that_is_repeated_is_read_as_the_first_time(raws: list[bytes]) -> None:
    again = Heads(65536)

    for raw in raws:
        assert outcome(lambda raw: taken(again, raw)[0], raw) == outcome(read_head, raw)


@given(
    st.lists(st.sampled_from([b"", b"\r\n"]).flatmap(lambda before: st.tuples(st.just(before), few_heads)), max_size=6),
    st.data(),
)
def test_heads_that_come_in_pieces_are_read_as_in_one_piece(
    raws: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    pieces, again, pending, read = b"".join(before + raw for before, raw in raws), Heads(65536), bytearray(), []

    while pieces:
        size = data.draw(st.integers(1, len(pieces)))
        pending += pieces[:size]
        pieces = pieces[size:]
        while found := again.take(pending):
            read.append(found[0])

    assert read == [read_head(raw) for _, raw in raws]
    assert not pending
    assert not again.has_begun()


@given(few_lines.map(lambda names: ["Host", *names]).flatmap(differing))
@example([written("GET /", ["Host", "X-One"], ["h", value]) for value in "ab"])
@example([written(f"GET {start}/", ["Host", "X-One"], ["h", value]) for start, value in (("http://e", "a"), ("", "b"))])
@example([written("GET /", ["Host", "Cookie", "Cookie"], ["h", *values]) for values in ("aa", "ab", "ba")])
@each_of(traces)
def test_a_head_with_other_values_is_read_as_the_first_time(raws: list[bytes]) -> None:
    again = Heads(65536)

    for raw in raws:
        assert outcome(lambda raw: taken(again, raw)[0], raw) == outcome(read_head, raw)


@given(few_lines.map(lambda names: ["Host", *names]).flatmap(differing))
@each_of(traces)
def test_what_is_known_of_a_head_with_other_values_is_true_of_it(raws: list[bytes]) -> None:
    again, rules = Heads(65536), Rules(trust=Trust(), timeouts=Timeouts(connect_timeout=1, idle_timeout=1))

    for raw in raws:
        try:
            head, shaped = taken(again, raw)
        except Malformed:
            continue
        scope: dict[str, Any] = {"type": "http", "client": ("10.0.0.5", 1), "method": head.method, TARGET: head.target}
        scope |= {"headers": head.headers, "scheme": "http", "http_version": head.version}
        assert shaped.refusal in ((), (rules.refusal(scope),))
        shaped.refusal = (rules.refusal(scope),)
        sent = towards_upstream(scope, Trust(), None)
        if shaped.like is not None:
            before, changes = shaped.like
            assert isinstance(before, list)
            assert [changes.get(pair, pair) for pair in before] == sent
        shaped.outgoing = sent


@given(few_lines.map(lambda names: ["Host", *names]).flatmap(differing), st.lists(st.sampled_from([None, "a", "b"])))
@example([written("GET /", ["Host", "Cookie", "Mcp-Session-Id"], ["h", value, "w1.a"]) for value in "abb"], ["a"] * 3)
@example([written("GET /", ["Host", "Cookie", "Mcp-Session-Id"], ["h", value, "w1.a"]) for value in "abc"], [*"aba"])
def test_what_is_known_of_rewritten_headers_is_true_of_them(raws: list[bytes], ids: list[str | None]) -> None:
    """As the middleware rewrites the headers of a head whose id has a hint."""
    again, matcher = Heads(65536), McpMatcher()

    for raw, session_id in zip(raws, ids, strict=False):
        try:
            head, shaped = taken(again, raw)
        except Malformed:
            continue
        rewritten = matcher.towards_app(head.headers, session_id)
        scope: dict[str, Any] = {"type": "http", "client": ("10.0.0.5", 1), "scheme": "http", SHAPED: shaped}
        scope["headers"] = rewritten
        known = shaped_in(scope)
        assert known is not None
        assert known.headers == rewritten
        assert known.shape is shape_of(rewritten)
        sent = towards_upstream(scope, Trust(), None)
        if known.like is not None:
            before, changes = known.like
            assert isinstance(before, list)
            assert [changes.get(pair, pair) for pair in before] == sent
        known.outgoing = sent
