"""What "Fleet" asks: totals, which are the largest over the instances, and numbers of each instance.

Each process reports the same totals, read from the store a moment apart. So what is unaccounted for is computed for
each instance before.
"""

from typing import Final

from .asks import MANAGER, WHO, happened, latest

FLEET: Final = "job, otel_sessions_manager_name"
"""The labels that tell one fleet from another."""
FLEET_NAMED: Final = "{{job}}/{{otel_sessions_manager_name}}"


def of_fleet(metric: str, *labels: str) -> str:
    """Return a total of the whole fleet: the largest that an instance reports, also by labels."""
    return f"max by ({', '.join([FLEET, *labels])}) ({latest(f'otel_sessions_fleet_{metric}')})"


def of_each(metric: str) -> str:
    """Return a number of each instance, the sum over its words."""
    return f"sum by ({WHO}) ({latest(f'otel_sessions_fleet_{metric}')})"


def members(state: str) -> str:
    where = f'{MANAGER}, otel_sessions_fleet_member_state="{state}"'
    return f"max by ({FLEET}) ({latest('otel_sessions_fleet_members', where)})"


def happened_at_each(metric: str, *labels: str) -> str:
    """Return how much a counter of each instance has risen within `$__interval`, also by labels."""
    return happened(f"otel_sessions_fleet_{metric}_total", ", ".join([WHO, *labels]))


UNACCOUNTED: Final = f"abs({of_each('session_created')} - {of_each('session_cleaned')} - {of_each('session_active')})"
