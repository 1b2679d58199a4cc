"""Writes what the code and the benchmarks have to say into the pages: `python -m docs`."""

from . import settings, signals, speed

for page in (settings, signals, speed):
    page.PATH.write_text(page.page(), encoding="utf-8")
