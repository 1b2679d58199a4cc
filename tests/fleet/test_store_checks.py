import coredis.exceptions as coredis_errors
import pytest

from otel_sessions.fleet.store_checks import Verdict, judge, judge_single
from otel_sessions.fleet.store_errors import explain, is_refusal, is_wrong_setting

SOUND = {
    "redis_version": "7.2.4",
    "valkey_version": "9.1.2",
    "maxmemory_policy": "noeviction",
    "min-replicas-to-write": "0",
    "connected_slaves": "0",
    "aof_enabled": "1",
    "save": "",
}


def test_a_sound_server_gives_no_cause_for_a_word() -> None:
    assert judge(SOUND) == Verdict()


@pytest.mark.parametrize(
    ("versions", "refused"),
    [
        ({"redis_version": "7.0.15"}, False),
        ({"redis_version": "8.2.1"}, False),
        ({"redis_version": "6.2.14"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1"}, False),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.9"}, True),
        ({"redis_version": "unstable"}, False),
        ({}, False),
    ],
)
def test_older_servers_than_redis_7_and_valkey_8_are_refused(versions: dict[str, str], refused: bool) -> None:
    rest = {name: value for name, value in SOUND.items() if "version" not in name}
    refusal = judge({**rest, **versions}).refusal
    assert (refusal is not None and "Valkey 8, Redis 7 or newer" in refusal) is refused


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
def test_a_server_that_evicts_keys_is_refused(policy: str) -> None:
    refusal = judge({**SOUND, "maxmemory_policy": policy}).refusal
    assert refusal is not None
    assert f"is {policy}" in refusal


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"server_mode": "cluster"}, "give cluster"),
        ({"redis_mode": "cluster"}, "give cluster"),
        ({"redis_mode": "sentinel"}, "is a Sentinel"),
        ({"redis_mode": "standalone", "role": "slave"}, "is a replica"),
    ],
)
def test_a_part_of_something_larger_is_no_single_server(facts: dict[str, str], text: str) -> None:
    assert judge({**SOUND, **facts}) == Verdict()
    refusal = judge_single({**SOUND, **facts}).refusal
    assert refusal is not None
    assert text in refusal


@pytest.mark.parametrize("facts", [{}, {"redis_mode": "standalone", "role": "master"}])
def test_a_single_server_is_judged_as_every_server(facts: dict[str, str]) -> None:
    assert judge_single({**SOUND, **facts}) == Verdict()
    assert judge_single({**SOUND, **facts, "maxmemory_policy": "allkeys-lru"}).refusal is not None


@pytest.mark.parametrize(("replicas", "least", "warned"), [("1", "0", True), ("1", "1", False), ("0", "0", False)])
def test_replicas_that_no_write_waits_for_are_warned_of(replicas: str, least: str, warned: bool) -> None:
    verdict = judge({**SOUND, "connected_slaves": replicas, "min-replicas-to-write": least})
    assert bool(verdict.warnings) is warned


@pytest.mark.parametrize(("aof", "save", "noted"), [("0", "", True), ("0", "60 1", False), ("1", "", False)])
def test_a_server_that_keeps_nothing_on_disk_is_noted(aof: str, save: str, noted: bool) -> None:
    assert bool(judge({**SOUND, "aof_enabled": aof, "save": save}).notes) is noted


def test_a_server_that_hides_its_settings_is_not_refused_for_it() -> None:
    verdict = judge({})
    assert verdict.refusal is None
    assert verdict.warnings == ()
    assert ["not all of its settings" in note for note in verdict.notes] == [True]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (coredis_errors.BusyLoadingError("x"), "is loading"),
        (coredis_errors.ClusterDownError("x"), "Cluster is down"),
        (coredis_errors.TryAgainError("x"), "moves the keys"),
        (coredis_errors.MovedError("1 a:2"), "give cluster"),
        (coredis_errors.StalePrimaryError("x"), "is a replica"),
        (coredis_errors.RedisClusterError("x"), "no node"),
        (coredis_errors.ResponseError("NOREPLICAS x"), "min-replicas-to-write"),
        (coredis_errors.ResponseError("MISCONF x"), "disk"),
        (coredis_errors.ResponseError("MASTERDOWN x"), "lost its primary"),
        (coredis_errors.ResponseError("BUSY x"), "SCRIPT KILL"),
        (coredis_errors.ResponseError("NEW thing"), "refuses the call: NEW thing"),
        (TimeoutError(), "in time"),
        (coredis_errors.ResponseError("DB index is out of range"), "number at the end of the URL"),
        (coredis_errors.ResponseError("OOM"), "is full"),
        (ValueError("secret"), r"failed \(ValueError\)$"),
    ],
)
def test_an_error_says_what_happened_and_what_to_do(error: Exception, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        raise RuntimeError(explain(error))


def test_what_led_to_an_error_counts_if_waiting_does_not_help() -> None:
    outer = coredis_errors.RedisClusterError("x")
    outer.__cause__ = coredis_errors.ConnectionError("x")
    assert (explain(outer).partition(" can")[0], is_wrong_setting(outer)) == ("no node of the Cluster", False)
    outer.__cause__.__context__ = coredis_errors.AuthenticationRequiredError("x")
    outer.__cause__.__context__.__context__ = outer
    assert ("password" in explain(outer), is_wrong_setting(outer)) == (True, True)


def test_a_servers_own_text_is_cut() -> None:
    assert len(explain(coredis_errors.ResponseError("x" * 10_000))) < 300


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (coredis_errors.ResponseError("OOM"), True),
        (coredis_errors.TryAgainError("x"), True),
        (coredis_errors.ReadOnlyError("x"), False),
        (coredis_errors.AuthenticationFailureError("x"), False),
        (coredis_errors.ConnectionError("x"), False),
        (TimeoutError(), False),
    ],
)
def test_only_a_refusal_leaves_the_client_as_it_is(error: Exception, refusal: bool) -> None:
    assert is_refusal(error) is refusal
