"""The scripts and the processes with one guard taken out. A mutant that nothing notices shows a needless guard."""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from otel_sessions.fleet import scripts
from otel_sessions.fleet.lanes import Lane
from otel_sessions.fleet.membership import Membership
from otel_sessions.fleet.replica import Replica
from otel_sessions.fleet.scripts import Script

SHARD = (scripts.PUT, scripts.END, scripts.RECLAIM)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One or several cuts: in every script that has `text`, it becomes `instead`."""

    name: str
    cuts: tuple[tuple[str, str], ...]
    where: tuple[Script, ...]

    def scripts(self) -> dict[str, Script]:
        """Return the changed scripts by name."""
        return {script.name: replace(script, source=self._cut(script.source)) for script in self.where}

    def _cut(self, source: str) -> str:
        for text, instead in self.cuts:
            assert source.count(text) == 1, f"{text} is there {source.count(text)} times"
            source = source.replace(text, instead)
        return source


def mutant(name: str, where: Script | tuple[Script, ...], *cuts: tuple[str, str]) -> Mutant:
    return Mutant(name=name, where=where if isinstance(where, tuple) else (where,), cuts=cuts)


OWNER_OR_NONCE = "record.owner ~= epoch or record.nonce ~= nonce"
IS_UNCLAIMED = "redis.call('SREM', KEYS[6], id)"
IS_KNOWN = "if redis.call('HEXISTS', w, dead) == 1 then"
HOOK_RAN = "elseif redis.call('ZSCORE', KEYS[7], nonce) then"
RAN_OUT = "'-inf', '(' .. int(now), 'LIMIT'"
FENCE = ("if redis.call('ZSCORE', f, epoch) then", "if false then")
LATE = ("return now > tonumber(deadline)", "return false")

MUTANTS = [
    mutant("a late join wins", scripts.JOIN, ("if row and row.joins > joins then", "if false then")),
    mutant(
        "epochs begin anew with the store",
        scripts.JOIN,
        ("math.max(math.floor(last / 1000) + 1, now) * 1000 + digits", "(math.floor(last / 1000) + 1) * 1000"),
    ),
    mutant("a join grants what is not free", scripts.JOIN, ("math.min(used, free)", "used")),
    mutant("a dead epoch beats on", scripts.BEAT, ("not process or not redis.call('ZSCORE', l, epoch)", "not process")),
    mutant("a late beat sets the grant", scripts.BEAT, ("if beat < row.beat then", "if false then")),
    mutant("a grant ignores former epochs", scripts.BEAT, ("if commas == 0 then", "if true then")),
    mutant("a beat grants what is not free", scripts.BEAT, ("math.min(target, row.grant + free)", "target")),
    mutant("any burial frees the grant", scripts.BURY, ("if #left == 0 then", "if true then")),
    mutant("members are suspected", scripts.SUSPECT, ("if not redis.call('ZSCORE', l, epoch) then", "if true then")),
    mutant("no lane numbers", SHARD, ("if lane < owner.lane then", "if false then")),
    mutant("no fence and no deadline", SHARD, FENCE, LATE),
    mutant("no fence", SHARD, FENCE),
    mutant("no deadline", SHARD, LATE),
    mutant("a put takes an id away", scripts.PUT, ("if not record then", "if true then")),
    mutant("a repeated put is refused", scripts.PUT, (OWNER_OR_NONCE, "true")),
    mutant(
        "a put forgets whose id it is",
        scripts.PUT,
        (OWNER_OR_NONCE, "record.owner ~= epoch"),
    ),
    mutant("anybody ends a session", scripts.END, ("if record and record.owner == epoch then", "if record then")),
    mutant(
        "a late end brings an owner back", scripts.END, ("if redis.call('HEXISTS', w, epoch) == 1 then", "if true then")
    ),
    mutant("a suspect is dead at once", scripts.SUSPECT, ("int(now + lease)", "int(now)")),
    mutant("a suspect dies anew", scripts.SUSPECT, ("'NX', ", "")),
    mutant("a claim fences nothing", scripts.CLAIM, ("redis.call('ZADD', f, int(now), dead)", "")),
    mutant("a claim takes claims that run", scripts.CLAIM, (RAN_OUT, "'-inf', '+inf', 'LIMIT'")),
    mutant("a claim keeps the turn", scripts.CLAIM, ("record.turn = record.turn + 1", "")),
    mutant("a settlement ignores the owner", scripts.SETTLE, ("record.owner == dead and ", "")),
    mutant("a settlement ignores the turn", scripts.SETTLE, (" and record.turn == tonumber(ARGV[index + 1])", "")),
    mutant(
        "a late settlement brings an owner back",
        scripts.SETTLE,
        (IS_KNOWN, "if true then"),
    ),
    mutant(
        "claimed sessions come back",
        scripts.RECLAIM,
        (f"if {IS_UNCLAIMED} == 1 then", f"if {IS_UNCLAIMED} >= 0 then"),
    ),
    mutant("a reclaim ignores which hooks have run", scripts.RECLAIM, (HOOK_RAN, "elseif false then")),
    mutant("a fence stands for hooks", scripts.RECLAIM, (HOOK_RAN, "elseif redis.call('ZSCORE', f, former) then")),
    mutant(
        "hooks that have run are not noted",
        scripts.SETTLE,
        ("redis.call('ZADD', KEYS[6], int(now), ARGV[index + 2])", ""),
    ),
    mutant("an audit ignores the fence", scripts.AUDIT, ("if redis.call('ZSCORE', f, ARGV[2]) then", "if false then")),
    mutant("hooks are forgotten at once", scripts.AUDIT, ("int(now - HOUR)", "int(now)")),
    mutant("a join has no grace", scripts.JOIN, ("if used > 0 then", "if false then")),
    mutant("a store that was away buries everybody", scripts.BEAT, ("if now >= quiet then", "if true then")),
    mutant("a living epoch is buried", scripts.BURY, ("if redis.call('ZSCORE', l, epoch) then", "if false then")),
    mutant("a repeated join is a new one", scripts.JOIN, ("if row and row.joins == joins then", "if false then")),
]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of what a process runs: where it has `text`, the changed one has `instead`."""

    name: str
    owner: type
    method: str
    text: str
    instead: str

    def changed(self) -> Callable[..., Any]:
        """Return the changed method."""
        method = getattr(self.owner, self.method)
        source = textwrap.dedent(inspect.getsource(method))
        assert source.count(self.text) == 1, f"{self.text} is there {source.count(self.text)} times"
        made: dict[str, Any] = {}
        exec(compile(source.replace(self.text, self.instead), "mutant", "exec"), method.__globals__, made)  # noqa: S102 - the method's own source
        changed: Callable[..., Any] = made[self.method]
        return changed


def method(name: str, of: Callable[..., Any], text: str, instead: str, owner: type) -> Method:
    return Method(name=name, owner=owner, method=of.__name__, text=text, instead=instead)


METHODS = [
    method("the lease has no margin", Membership._beaten, " * _MARGIN", "", Membership),
    method(
        "the lease runs from the answer",
        Membership.is_living,
        "now < self._ends",
        "now < self._ends + 5",
        Membership,
    ),
    method(
        "the grant shrinks after the sending",
        Membership._beat,
        "self.grant = min(self.grant, want)",
        "pass",
        Membership,
    ),
    method(
        "a session is visible under another epoch",
        Replica.is_visible,
        "held.epoch == self.membership.epoch and ",
        "",
        Replica,
    ),
    method(
        "a session is visible after the lease", Replica.is_visible, " and self.membership.is_living(now)", "", Replica
    ),
    method("a new epoch forgets what it had", Lane.steps_for_successor, "*mine, ", "", Lane),
]
