"""The Lua scripts: every change of the store is exactly one of them.

Each script is a file beside this module, behind one or two files of what scripts share. A script bears repetition and
late arrival, since clients repeat what was not answered. It touches about 100 sessions at most and keys of one slot
only. Its first argument is the time in milliseconds; 0 stands for the server's own clock.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Final

FORMAT: Final = 1
"""The number of the data's format. The first process of a fleet writes it; others refuse another number."""
MOST: Final = 100
"""The most sessions that a caller puts into one call."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """One script by name, with its whole source."""

    name: str
    source: str

    @cached_property
    def sha(self) -> str:
        """The hexadecimal SHA-1 of the source, by which EVALSHA names the script."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def _read(name: str, *shared: str) -> Script:
    folder = files(__package__)
    sources = [(folder / f"{file}.lua").read_text(encoding="utf-8") for file in ("_now", *shared, name)]
    return Script(name=name, source="\n".join(sources))


JOIN: Final = _read("join", "_fleet")
BEAT: Final = _read("beat", "_fleet")
BURY: Final = _read("bury", "_fleet")
LEAVE: Final = _read("leave", "_fleet")
SUSPECT: Final = _read("suspect", "_fleet")
MEMBERS: Final = _read("members", "_fleet")
PUT: Final = _read("put", "_shard")
END: Final = _read("end", "_shard")
LOOK: Final = _read("look", "_shard")
CLAIM: Final = _read("claim", "_shard")
SETTLE: Final = _read("settle", "_shard")
RECLAIM: Final = _read("reclaim", "_shard")
AUDIT: Final = _read("audit", "_shard")
PAGE: Final = _read("page", "_shard")

ALL: Final = (JOIN, BEAT, BURY, LEAVE, SUSPECT, MEMBERS, PUT, END, LOOK, CLAIM, SETTLE, RECLAIM, AUDIT, PAGE)
