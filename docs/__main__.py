"""Writes what the code and the benchmarks have to say into the pages: `python -m docs`."""

from . import faults, settings, signals, speed

for page in (faults, settings, signals, speed):
    page.PATH.write_text(page.page(), encoding="utf-8")
