"""Whether a server is fit to be a fleet's store: what its INFO and CONFIG say, and a pure decision over these facts.

Unfit is a server that is too old, or that evicts keys: it would lose sessions without a word. Unfit as a single server
is a part of something larger. All other findings are advice, since the fleet also works without what they ask for.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from coredis import Redis
from coredis.exceptions import AuthorizationError, UnknownCommandError

from .store_errors import is_too_old

Facts: TypeAlias = Mapping[str, str]
"""Fields of INFO and CONFIG, by name."""

_SETTINGS: Final = ("maxmemory-policy", "min-replicas-to-write", "save")
_OLDEST: Final = {"Valkey": 8, "Redis": 7}
"""The oldest major version that the fleet is tested with."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is wrong with a server (None if it is fit), what to warn of, and what to mention."""

    refusal: str | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge(facts: Facts) -> Verdict:
    """Return the verdict on a server. A fact that the server keeps to itself is no reason to refuse it."""
    refusal = _too_old(facts) or _evicts(facts)
    return Verdict(
        refusal=refusal,
        warnings=tuple(text for text in (_unguarded_replicas(facts),) if text),
        notes=tuple(text for text in (_unreadable(facts), _not_persistent(facts)) if text),
    )


def judge_single(facts: Facts) -> Verdict:
    """Return the verdict on a server that is given as the only one."""
    misplaced = _misplaced(facts)
    return judge(facts) if misplaced is None else Verdict(refusal=misplaced)


def _misplaced(facts: Facts) -> str | None:
    mode = facts.get("server_mode") or facts.get("redis_mode")
    if mode == "cluster":
        return "the server is a node of a Cluster; give cluster (--fleet-cluster)"
    if mode == "sentinel":
        return "the server is a Sentinel; give the name of its primary as sentinel (--fleet-sentinel)"
    if facts.get("role") == "slave":
        return "the server is a replica, which takes no writes; give the primary, or Sentinels that name the primary"
    return None


def _too_old(facts: Facts) -> str | None:
    product = "Valkey" if "valkey_version" in facts else "Redis"
    version = facts.get("valkey_version") or facts.get("redis_version", "")
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) >= _OLDEST[product]:
        return None
    return f"the store is {product} {version}; a fleet needs Valkey 8, Redis 7 or newer"


def _evicts(facts: Facts) -> str | None:
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return None
    return (
        f"the store's maxmemory-policy is {policy}, which would drop sessions without a word; "
        "set maxmemory-policy to noeviction"
    )


def _unguarded_replicas(facts: Facts) -> str | None:
    if facts.get("connected_slaves", "0") == "0" or facts.get("min-replicas-to-write", "1") != "0":
        return None
    return "the store has replicas, but min-replicas-to-write is 0: a failover may lose more writes; set it to 1"


def _not_persistent(facts: Facts) -> str | None:
    if facts.get("aof_enabled", "1") != "0" or facts.get("save", "900 1") != "":
        return None
    return "the store keeps nothing on disk: after a restart all processes join anew and put their sessions again"


def _unreadable(facts: Facts) -> str | None:
    if "maxmemory_policy" in facts and "min-replicas-to-write" in facts:
        return None
    return "the store shows not all of its settings; check maxmemory-policy and min-replicas-to-write there"


async def read_facts(client: Redis[bytes]) -> Facts:
    """Return what a server tells of itself. What its user may not read is missing. Raises what coredis raises.

    The calls ask as old servers understand it: before Redis 7, INFO takes no list of sections, and CONFIG GET one name.
    """
    facts: dict[str, str] = {}
    with _may_be_hidden():
        facts.update(_named(await client.info()))
    with _may_be_hidden():
        for setting in _SETTINGS:
            facts.update(_named(await client.config_get([setting])))
    return facts


@contextlib.contextmanager
def _may_be_hidden() -> Iterator[None]:
    """Allow a server to forbid a command, or not to know it.

    Raise if the server is too old for the client: nothing else can be asked then.
    """
    try:
        yield
    except (AuthorizationError, UnknownCommandError) as error:
        if is_too_old(error):
            raise


def _named(fields: Mapping[Any, object]) -> dict[str, str]:
    return {_text(name).replace("maxmemory-policy", "maxmemory_policy"): _text(value) for name, value in fields.items()}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
