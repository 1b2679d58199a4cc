"""What each process decides, with one guard taken out: in its membership, sight, lanes, healing and cleaning."""

from typing import Final

from otel_sessions.fleet.healing import Healing
from otel_sessions.fleet.lanes import Lane
from otel_sessions.fleet.membership import Membership
from otel_sessions.fleet.orphans import Cleaning, Suspicions
from otel_sessions.fleet.replica import Replica
from tests.fleet.mutants import method

PROCESS_MUTANTS: Final = [
    # The membership
    method(
        "a lease runs from the hearing of the answer",
        Replica._heard,
        "self.membership.answer(call, answer)",
        "self.membership._sent = now; self.membership.answer(call, answer)",
        Replica,
    ),
    method("a process that is back creates at once", Membership.places, "0 if self.former else", "", Membership),
    method(
        "a refused process serves on",
        Membership.give_up,
        "self.epoch, self._ends, self.joins, self._call = None, _NEVER, self.joins + 1, None",
        "self.epoch, self.joins = None, self.joins + 1",
        Membership,
    ),
    method("a new join has an old number", Membership.give_up, "self.joins + 1", "self.joins", Membership),
    method("a beat keeps its number", Membership._beat, "self._beats += 1", "self._beats = 1", Membership),
    method(
        "an answer to a former beat counts", Membership.answer, "if call is not self._call:", "if False:", Membership
    ),
    # What is visible, and what has room
    method(
        "sessions are visible before the store has them",
        Replica.register,
        "_Held(put=put)",
        "_Held(put=put, epoch=self.membership.epoch)",
        Replica,
    ),
    method("there is room beyond the grant", Replica.has_room, "len(self._held) <", "len(self._held) <=", Replica),
    method(
        "a process cleans before it takes over",
        Replica._may_clean,
        "self.has_rejoined()",
        "self.membership.epoch is not None",
        Replica,
    ),
    method(
        "an answer after a failure counts",
        Replica.failed,
        "self._under_way.pop(call, None)",
        "self._under_way.get(call)",
        Replica,
    ),
    method(
        "an answer to a former lane counts",
        Replica._written,
        "self._held[ref].epoch = lane.epoch",
        "self._held[ref].epoch = self.membership.epoch",
        Replica,
    ),
    # Lanes
    method("a lane does not number", Lane._write, "self._number += 1", "self._number = 1", Lane),
    method(
        "a successor forgets what was in doubt",
        Lane.steps_for_successor,
        "*map(self._in_doubt, self._steps), ",
        "",
        Lane,
    ),
    method("a successor forgets what waited", Lane.steps_for_successor, ", *self._waiting", "", Lane),
    method(
        "a put in doubt is put again",
        Lane._in_doubt,
        "return Reclaim(put=step, formers=(self.epoch,))",
        "return step",
        Lane,
    ),
    method("a reclaim in doubt forgets its formers", Lane._in_doubt, "(self.epoch, *formers)", "(self.epoch,)", Lane),
    method("what was cleaned is put again", Lane._reclaimed, "if result == 0:", "if result in (0, 2):", Lane),
    method("what the store forgot is lost", Lane._reclaimed, "if result == 0:", "if False:", Lane),
    method(
        "what has ended is put again",
        Lane._reclaimed,
        "if result == 0 and self._waiting.has_end(step.ref):",
        "if False:",
        Lane,
    ),
    method("what an earlier epoch has is lost", Lane._reclaimed, "if result in step.formers:", "if False:", Lane),
    method("an id that came back is taken", Lane._put, "if owner == self.epoch:", "if False:", Lane),
    method("news of what has ended is told", Lane.answer, "if not self._waiting.has_end(ref)", "if True", Lane),
    method("a write is repeated though it is late", Lane.call, "and deadline != self._late", "", Lane),
    method("a write and an audit are under way", Lane.call, "if not self._steps and (", "if (", Lane),
    method("an answer from before counts", Lane.check, "if not self._steps:", "if False:", Lane),
    method(
        "a lane writes after the lease",
        Replica._call_of,
        "if self.membership.is_living(now) else None",
        "",
        Replica,
    ),
    method("a party speaks twice at once", Replica.calls, "if id(party) not in busy and ", "if ", Replica),
    method(
        "a refusal of a former epoch counts",
        Replica._written,
        "if lane.epoch == self.membership.epoch:",
        "if True:",
        Replica,
    ),
    # Healing
    method("what came back stays", Lane._heal, "in differences.left_over", "in ()", Lane),
    method("what is missing stays away", Lane._heal, "in differences.missing", "in ()", Lane),
    method(
        "an audit counts only",
        Healing._audited,
        "(count, stored) == (len(nonces), digest(nonces))",
        "count == len(nonces)",
        Healing,
    ),
    # Orphans
    method(
        "a shard is empty while claims run",
        Cleaning._claimed,
        "if int(answer[1]) == 0:",
        "if int(answer[1]) == 0 or len(answer) == 2:",
        Cleaning,
    ),
    method("what others have claimed is not looked at again", Cleaning.wake, "self._fruitless = 0", "pass", Cleaning),
    method(
        "a dead epoch is not buried",
        Cleaning.call,
        "Call(script=BURY, keys=self._keys.fleet, args=(self.dead,))",
        "None",
        Cleaning,
    ),
    method("hooks are forgotten with a death", Replica._drop_cleanings, " or one.is_settling", "", Replica),
    method("nobody is suspected", Suspicions.audited, "if now - first >= self._patience", "if False", Suspicions),
    method("a death that was forgotten is cleaned", Replica._is_named, "dead in named or ", "True or ", Replica),
    method(
        "a lost connection leaves no doubt of deaths", Replica.check_all, "self._doubts_deaths = True", "pass", Replica
    ),
]
