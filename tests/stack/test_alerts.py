"""What the alerts say of made-up series, at a short and at a long interval of export; promtool asks the real rules."""

import subprocess
from pathlib import Path

import pytest
import yaml

from .alert_case import EXPORTS, promtool_tests
from .alert_cases import CASES
from .programs import program

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("seconds", EXPORTS.values(), ids=EXPORTS)
def test_each_alert_fires_in_its_cases_and_in_no_other(tmp_path: Path, seconds: int) -> None:
    file = tmp_path / "cases.yaml"
    file.write_text(yaml.safe_dump(promtool_tests(CASES, seconds), sort_keys=False))

    done = subprocess.run([program("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
