"""The admin API does what its OpenAPI description says: schemathesis tries each request, in this process."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from httpx2 import AsyncClient, Response
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode, checks
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks as openapi

from otel_sessions import SessionConfig, SessionManager
from otel_sessions.admin import _gate, admin_app
from tests.admin.conftest import RIGHT, TOKEN, client_of
from tests.admin.fleets import Fleet

APP = admin_app(SessionManager(), token=TOKEN)
DESCRIPTION = schemathesis.openapi.from_dict(APP.openapi())
OPERATIONS = {found.ok().label: found.ok() for found in DESCRIPTION.get_all_operations() if isinstance(found, Ok)}

TAKE_SOMETHING = ("GET /v1/sessions", "DELETE /v1/sessions", "PATCH /v1/config", "GET /v1/recent", "POST /v1/cleanup")
SENT = {"Authorization": RIGHT["authorization"]}
CHECKS = [
    *(checks.not_a_server_error, checks.negative_data_rejection),
    *(openapi.status_code_conformance, openapi.content_type_conformance),
    *(openapi.response_schema_conformance, openapi.response_headers_conformance),
]
"""All but those that call a server by themselves."""


ALONE, AMONG, SILENT = "alone", "among others", "with a silent process"


class Served:
    """A running manager with sessions, alone or among others, and a client of its admin API."""

    def __init__(self, portal: BlockingPortal, kind: str) -> None:
        self._portal = portal
        self._kind = kind

    @property
    def checks(self) -> list[Any]:
        """The answer may be 503 if a process is silent. Then only what the description lacks is an error."""
        return [check for check in CHECKS if self._kind != SILENT or check is not checks.not_a_server_error]

    async def start(self) -> None:
        fleet = None if self._kind == ALONE else Fleet()
        config = SessionConfig(max_sessions=1000)
        self.managers = [SessionManager(config, fleet=fleet)]
        if fleet is not None:
            self.managers += [SessionManager(config), SessionManager(config)]
            fleet.managers = dict(zip(["w1", "w3"], self.managers[1:], strict=True))
            fleet.silent = {"w3"} if self._kind == SILENT else set()
        for manager in self.managers:
            await manager.__aenter__()
            for _ in range(3):
                await manager.create_session(client="ada")
        self.client = client_of(admin_app(self.managers[0], token=TOKEN))

    async def stop(self) -> None:
        await self.client.aclose()
        for manager in self.managers:
            await manager.shutdown()

    def call(self, case: Case[Any]) -> Response:
        return self._portal.call(partial(_call, self.client, case))


async def _call(client: AsyncClient, case: Case[Any]) -> Response:
    sent = case.as_transport_kwargs(base_url="http://admin.test")
    return await client.request(
        sent["method"],
        sent["url"],
        headers=dict(sent["headers"]),
        params=sent.get("params"),
        json=sent.get("json"),
        content=sent.get("data"),
    )


@pytest.fixture(scope="module", params=[ALONE, AMONG, SILENT])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with start_blocking_portal("asyncio") as portal:
        served = Served(portal, request.param)
        portal.call(served.start)
        yield served
        portal.call(served.stop)


def test_every_request_is_described() -> None:
    assert len(OPERATIONS) == 12


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *((label, GenerationMode.POSITIVE) for label in OPERATIONS),
        *((label, GenerationMode.NEGATIVE) for label in OPERATIONS if label in TAKE_SOMETHING),
    ],
)
def test_each_answer_is_as_described(
    label: str, mode: GenerationMode, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gate, "_BURST", 1e9)

    @settings(max_examples=20, suppress_health_check=list(HealthCheck))
    @given(case=OPERATIONS[label].as_strategy(mode, headers=dict(SENT)))
    def answers(case: Case[Any]) -> None:
        case.validate_response(served.call(case), checks=served.checks)

    answers()
