"""Sinks: where the records of ended sessions go."""

from ._jsonlines import JsonLinesSink
from .records import Record, read_records

__all__ = ["JsonLinesSink", "Record", "read_records"]
