"""Each row of the fault matrix in its short form, on real processes and servers."""

import pytest

from tests.fleet.servers import valkey_program

from .rows import ROWS, Row

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_after_a_fault_no_session_is_lost_counted_twice_or_served_after_a_claim(row: Row) -> None:
    verdict = row.run(valkey_program())

    assert row.holds(verdict), verdict
