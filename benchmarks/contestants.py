"""Who is measured, in the order of the table: the session manager, what one would write by hand, and caches."""

from .by_hand import BareDict, FullScan
from .caches import CacheboxTTL, CacheboxVTTL, Cachetools, Moka
from .contestant import Contestant
from .ours import Ours, OursWithSdk

ALL: tuple[type[Contestant], ...] = (
    Ours,
    OursWithSdk,
    BareDict,
    FullScan,
    CacheboxVTTL,
    CacheboxTTL,
    Moka,
    Cachetools,
)
BY_NAME = {contestant.name: contestant for contestant in ALL}
