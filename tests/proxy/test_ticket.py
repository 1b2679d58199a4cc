"""What the store keeps of a session, so that another proxy can end it at the upstream: sealed, and for one session."""

import pytest

from otel_sessions.fleet import Orphan
from otel_sessions.fleet.signing import Secrets
from otel_sessions.fleet.store import session_ref
from otel_sessions.proxy.farewell import Farewell
from otel_sessions.proxy.orphans import OrphanFarewell
from otel_sessions.proxy.ticket import Ticket, seal, unseal
from otel_sessions.proxy.upstream import Upstream

OLD = Secrets([b"the secret of last year"]).keys[0]
NEW = Secrets([b"the secret of this year"]).keys[0]
TICKET = Ticket(
    session_id="id-\xe9",
    target=b"/mcp?a=b:c",
    headers=[(b"authorization", b"Bearer x:y z"), (b"cookie", b"a=\xff"), (b"cookie", b"")],
)


def test_a_ticket_comes_back_as_it_was_and_is_never_sealed_alike() -> None:
    one, other = seal(TICKET, [NEW]), seal(TICKET, [NEW])
    assert unseal(one, [NEW]) == unseal(other, [NEW]) == TICKET
    assert one != other
    assert b"Bearer" not in one
    assert "Bearer" not in repr(TICKET)


def test_the_first_secret_seals_and_every_secret_opens() -> None:
    before, during = seal(TICKET, [OLD]), seal(TICKET, [NEW, OLD])
    assert unseal(before, [NEW, OLD]) == unseal(during, [NEW]) == TICKET
    assert unseal(before, [NEW]) is None
    assert unseal(during, [OLD]) is None


@pytest.mark.parametrize("cut", [0, 1, 12, 13, 28, -1])
def test_a_ticket_that_is_cut_short_or_changed_is_no_ticket(cut: int) -> None:
    sealed = seal(TICKET, [NEW])
    assert unseal(sealed[:cut], [NEW]) is None
    assert unseal(sealed[:cut] + bytes([sealed[cut] ^ 1]) + sealed[cut:][1:], [NEW]) is None
    assert unseal(b"", [NEW]) is None


@pytest.mark.anyio
async def test_a_ticket_ends_no_other_session_than_its_own(anyio_backend: object) -> None:
    secrets = Secrets([b"the secret of this year", b"the secret of last year"])
    asked: list[Ticket] = []

    class Noting(Farewell):
        async def to_orphan(self, ticket: Ticket) -> None:
            asked.append(ticket)

    orphans = OrphanFarewell(Noting(Upstream("http://127.0.0.1:1"), 5.0), lambda: secrets)
    for ref, blob, ends in (
        (session_ref(TICKET.session_id, NEW), seal(TICKET, [NEW]), True),
        (session_ref(TICKET.session_id, OLD), seal(TICKET, [OLD]), True),
        (session_ref("another session", NEW), seal(TICKET, [NEW]), False),
        (session_ref(TICKET.session_id, NEW), b"", False),
    ):
        asked.clear()
        orphan = Orphan(ref=ref, blob=blob, token=1, age=1.0, owner=1)
        if ends:
            await orphans.end(orphan)
        else:
            with pytest.raises(ConnectionError, match="the upstream may still hold the session of a dead proxy"):
                await orphans.end(orphan)
        assert asked == ([TICKET] if ends else [])
