"""The metrics of several processes as one answer for Prometheus."""

from prometheus_client.parser import text_string_to_metric_families

from otel_sessions._program.exposition import own, together

ONE = b"""\
# HELP made_total How many were made.
# TYPE made_total counter
made_total{kind="a"} 3.0
# HELP took_seconds How long it took.
# TYPE took_seconds histogram
took_seconds_bucket{le="1.0"} 1.0
took_seconds_bucket{le="+Inf"} 2.0
took_seconds_count 2.0
took_seconds_sum 2.5
"""
OTHER = b"""\
# HELP made_total How many were made.
# TYPE made_total counter
made_total{kind="a"} 4.0
# HELP now Only here.
# TYPE now gauge
now 1.0
"""


def test_the_series_of_all_processes_are_told_apart_by_their_worker() -> None:
    text = together({"1": ONE, "2": OTHER, "3": None}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = {
        (sample.name, sample.labels["worker"]): sample.value
        for name in ("made", "now", "otel_sessions_worker_up")
        for sample in families[name].samples
    }
    assert found == {
        ("made_total", "1"): 3.0,
        ("made_total", "2"): 4.0,
        ("now", "2"): 1.0,
        ("otel_sessions_worker_up", "1"): 1.0,
        ("otel_sessions_worker_up", "2"): 1.0,
        ("otel_sessions_worker_up", "3"): 0.0,
    }
    assert families["took_seconds"].type == "histogram"
    assert {sample.labels["worker"] for sample in families["took_seconds"].samples} == {"1"}


def test_a_family_of_several_processes_is_described_once() -> None:
    lines = together({"1": ONE, "2": OTHER}).decode().splitlines()
    assert lines.count("# HELP made_total How many were made.") == 1
    assert lines.count("# TYPE made_total counter") == 1


def test_the_metrics_of_this_process_can_be_put_together_with_those_of_others() -> None:
    assert b'worker="1"' in together({"1": own(), "2": ONE})
