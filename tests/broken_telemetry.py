"""Providers, tracers, spans, meters and histograms that fail, each in one place."""

from typing import Any, NoReturn

from opentelemetry import metrics, trace


class BrokenTracer(trace.NoOpTracer):
    def start_span(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no span")


class BrokenSpan(trace.NonRecordingSpan):
    def set_attributes(self, attributes: Any) -> NoReturn:
        raise RuntimeError("no attributes")

    def end(self, end_time: int | None = None) -> NoReturn:
        raise RuntimeError("no end")


class TracerOfBrokenSpans(trace.NoOpTracer):
    def start_span(self, *_: Any, **__: Any) -> trace.Span:
        return BrokenSpan(trace.INVALID_SPAN_CONTEXT)


class GivingTracer(trace.TracerProvider):
    def __init__(self, tracer: trace.Tracer | None) -> None:
        self._tracer = tracer

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        if self._tracer is None:
            raise RuntimeError("no tracer")
        return self._tracer


class BrokenHistogram(metrics.NoOpHistogram):
    def record(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no record")


class MeterOfBrokenHistograms(metrics.NoOpMeter):
    def create_histogram(self, name: str, *_: Any, **__: Any) -> metrics.Histogram:
        return BrokenHistogram(name)


class MeterWithoutHistograms(metrics.NoOpMeter):
    def create_histogram(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no histogram")


class GivingMeter(metrics.MeterProvider):
    def __init__(self, meter: metrics.Meter | None) -> None:
        self._meter = meter

    def get_meter(self, *_: Any, **__: Any) -> metrics.Meter:
        if self._meter is None:
            raise RuntimeError("no meter")
        return self._meter
