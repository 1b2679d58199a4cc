"""The spans of forwarded requests: a client span where a request is passed on, a server span where it is taken.

The trace goes on from the current span, else from the headers of the request. Without a tracer provider there is no
span, and the headers pass as they are. An error of a provider is logged and counted, and never reaches a request.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, cast

from opentelemetry import context, propagate, trace
from opentelemetry.trace import (
    NoOpTracer,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
)

from otel_sessions._core.events import Event
from otel_sessions._core.words import OTHER, CleanupStage, Forwarded, type_of
from otel_sessions._engine.owners import Reports
from otel_sessions._telemetry.signals import (
    ERROR_TYPE,
    FORWARD_SPAN,
    FORWARDED,
    MANAGER_NAME,
    METHOD,
    METHODS,
    SCHEMA_URL,
    SCOPE,
    STATUS,
    TAKE_SPAN,
)
from otel_sessions._telemetry.telemetry import under
from otel_sessions._version import __version__
from otel_sessions.asgi import Message, Send
from otel_sessions.asgi._repeated import REPEATED
from otel_sessions.matchers import Headers, Scope, pairs_of

_logger = logging.getLogger("otel_sessions")


def is_traced_now() -> bool:
    """Return whether there is a current span."""
    if not context.get_current():  # mostly nothing has a context, and this says so at a part of the cost
        return False
    return trace.get_current_span().get_span_context().is_valid


def with_trace(headers: Headers) -> Headers:
    """Return headers whose trace goes on from the current span. Without a span they pass as they are."""
    if not is_traced_now():
        return headers
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    own = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in carrier.items()]
    replaced = {name for name, _ in own}
    return [*(pair for pair in headers if pair[0] not in replaced), *own]


class Answering:
    """Notes the status of an answer on its way. `outcome` says what became of a request that was passed on."""

    __slots__ = ("_send", "outcome", "status")

    def __init__(self, send: Send, outcome: Forwarded | None = None) -> None:
        self._send = send
        self.outcome = outcome
        self.status = 0
        """The status code of the answer, or 0 before the answer."""

    def note(self, outcome: Forwarded) -> None:
        """Note what became of the request."""
        self.outcome = outcome

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self.status = int(cast("int", message["status"]))
        elif kind == "websocket.accept":
            self.status = 101
        elif kind == "websocket.close" and not self.status:  # before it is accepted: ASGI says that this is a 403
            self.status = 403
        await self._send(message)


class Tracing:
    """The spans of the forwarded requests of one run of a manager."""

    def __init__(self, reports: Reports) -> None:
        self._reports: Final = reports
        self.count: Final = reports.books.add_forwarded
        """Counts the outcome of a request that was passed on without a span."""
        self._tracer: Tracer = NoOpTracer()
        with self._guarded():
            self._tracer = trace.get_tracer(SCOPE, __version__, reports.tracer_provider, SCHEMA_URL)

    @property
    def is_on(self) -> bool:
        """Whether there is a provider that makes spans. To ask for the global provider costs time."""
        return _is_traced(self._reports)

    @contextmanager
    def forward(self, scope: Scope, send: Send) -> Iterator[Answering]:
        """Count a request that is passed on inside the block, under a client span. Its outcome is noted there.

        A request that is broken off before its outcome counts as `left`.
        """
        answering = Answering(send, Forwarded.LEFT)
        try:
            with self._span(FORWARD_SPAN, SpanKind.CLIENT, scope) as span:
                try:
                    yield answering
                finally:
                    self._end(span, answering, _error_of_client(answering))
        finally:
            self._reports.books.add_forwarded(answering.outcome or Forwarded.LEFT)

    @contextmanager
    def take(self, scope: Scope, send: Send) -> Iterator[tuple[Scope, Answering]]:
        """Open a server span for the block, unless the app around the sessions has a span already.

        In the scope that it gives, the headers name the server span, so the trace goes on in an upstream, too.
        """
        answering = Answering(send)
        if is_traced_now():
            yield scope, answering
            return
        with self._span(TAKE_SPAN, SpanKind.SERVER, scope) as span:
            error = ""
            traced = {**scope, "headers": with_trace(pairs_of(scope)), REPEATED: None}  # each request has its own span
            try:
                yield traced, answering
            except BaseException as raised:
                error = type_of(raised)
                if isinstance(raised, Exception):
                    answering.status = answering.status or 500  # what the client is told then
                raise
            finally:
                self._end(span, answering, error or (str(answering.status) if answering.status >= 500 else ""))

    @contextmanager
    def _span(self, name: str, kind: SpanKind, scope: Scope) -> Iterator[Span | None]:
        """Make a new span the current span of the block. If the provider fails, there is no span."""
        span: Span | None = None
        with ExitStack() as exits:
            with self._guarded():
                span = self._start(name, kind, scope)
                exits.enter_context(under(trace.set_span_in_context(span)))
            yield span

    def _start(self, name: str, kind: SpanKind, scope: Scope) -> Span:
        method = str(scope.get("method", "GET"))  # a WebSocket begins as a GET (RFC 6455, section 4.1)
        parent = None
        if not is_traced_now():
            sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs_of(scope)}
            parent = propagate.extract(sent)
        about = {MANAGER_NAME: self._reports.manager, METHOD: method if method in METHODS else OTHER}
        return self._tracer.start_span(name, context=parent, kind=kind, attributes=about)

    def _end(self, span: Span | None, answering: Answering, error: str) -> None:
        if span is None:
            return
        with self._guarded():
            if answering.status:
                span.set_attribute(STATUS, answering.status)
            if answering.outcome is not None:
                span.set_attribute(FORWARDED, answering.outcome.value)
            if error:
                span.set_attribute(ERROR_TYPE, error)
                span.set_status(Status(StatusCode.ERROR))
        with self._guarded():
            span.end()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Log and count an error of the provider."""
        try:
            yield
        except Exception as error:
            _logger.warning(
                "the telemetry of manager %r failed",
                self._reports.manager,
                exc_info=error,
                extra=Event.TELEMETRY_FAILED.extra,
            )
            self._reports.books.add_error(CleanupStage.PASS, type_of(error))


def _error_of_client(answering: Answering) -> str:
    """Return the `error.type` of a client span, or an empty text (OpenTelemetry's conventions for HTTP spans)."""
    if answering.outcome is not None and answering.outcome is not Forwarded.ANSWERED:
        return answering.outcome.value
    return str(answering.status) if answering.status >= 400 else ""


def _is_traced(reports: Reports) -> bool:
    provider = reports.tracer_provider
    if provider is None:
        try:
            provider = trace.get_tracer_provider()
        except Exception:  # the API has logged the error
            return False
    return not isinstance(provider, (ProxyTracerProvider, NoOpTracerProvider))
