"""The real programs that the stack's tests start: found on the PATH, else where `make stack-tools` puts them."""

import os
import shutil

import pytest

from .tools.build import MODULES


def program(name: str) -> str:
    """Return where a program is; without it skip the test, or fail it if the whole stack is required."""
    found = shutil.which(name)
    for module in MODULES:
        if not found and name in module.programs and module.built:
            found = str(module.folder / name)
    if found:
        return found
    buildable = any(name in module.programs for module in MODULES)
    how = "`make stack-tools` builds it" if buildable else "put one on the PATH"
    reason = f"this test needs the program {name}, which is not here; {how}"
    if buildable and os.environ.get("REQUIRE_STACK"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
