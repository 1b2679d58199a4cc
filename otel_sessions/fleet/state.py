"""What a fleet with a store reports, under the name that the fleet's own modules use."""

from otel_sessions._core.fleet_state import FleetState, Totals

__all__ = ["FleetState", "Totals"]
