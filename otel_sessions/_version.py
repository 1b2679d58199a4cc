"""The distribution's version, which is also that of its telemetry's scope."""

__version__ = "0.1.0"
