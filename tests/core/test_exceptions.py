import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_sessions import (
    ConfigError,
    EndReason,
    ManagerClosed,
    PeerUnavailable,
    RejectionReason,
    SessionError,
    SessionExists,
    SessionManager,
    SessionNotFound,
    SinkClosed,
    SinkFull,
    StoreUnavailable,
    TooManySessions,
)

ERRORS: list[SessionError] = [
    TooManySessions(5),
    TooManySessions(5, 1.5),
    TooManySessions(2, None, RejectionReason.MAX_SESSIONS_PER_CLIENT),
    SessionNotFound("s3cret"),
    SessionNotFound("s3cret", EndReason.MAX_AGE),
    SessionExists("s3cret"),
    PeerUnavailable("w1", 2.5),
    StoreUnavailable(),
    StoreUnavailable("no script answers", 2.5),
    ManagerClosed("not running"),
    ManagerClosed("enter it", entered=False),
    SinkFull("dropped"),
    SinkClosed("not running"),
    ConfigError("max_sessions takes a whole number"),
]


def held(error: SessionError) -> dict[str, object]:
    """Return what an error knows, by name."""
    return {**vars(error), **{name: getattr(error, name) for name in getattr(type(error), "__slots__", ())}}


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_every_error_is_a_session_error(error: SessionError) -> None:
    assert type(error).__mro__[1] is SessionError
    assert SessionError.__mro__[1] is Exception


def test_only_a_config_error_is_a_value_error() -> None:
    assert [error for error in ERRORS if isinstance(error, ValueError)] == ERRORS[-1:]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_error_goes_through_pickle_whole(error: SessionError) -> None:
    loaded = pickle.loads(pickle.dumps(error))  # noqa: S301  # it was pickled here

    assert (type(loaded), str(loaded), held(loaded)) == (type(error), str(error), held(error))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_error_can_be_copied(error: SessionError) -> None:
    copied = copy.copy(error)

    assert (type(copied), str(copied), held(copied)) == (type(error), str(error), held(error))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_error_keeps_its_notes_in_every_copy(error: SessionError) -> None:
    noted = copy.copy(error)
    noted.add_note("while the cart was opened")

    for copied in (copy.copy(noted), copy.deepcopy(noted), pickle.loads(pickle.dumps(noted))):  # noqa: S301  # ours
        assert held(copied) == held(noted)
        assert copied.__notes__ == ["while the cart was opened"]


@pytest.mark.anyio
async def test_a_manager_that_was_never_entered_says_so_and_what_to_do() -> None:
    manager = SessionManager()
    calls: list[Callable[[], Any]] = [
        manager.create_session,
        lambda: manager.reserve().__aenter__(),
        lambda: manager.lease("a").__aenter__(),
        lambda: manager.pin("a").__enter__(),
        lambda: manager.close_session("a"),
        manager.cleanup_stale_sessions,
        manager.preview_cleanup,
        manager.emergency_cleanup,
    ]
    for call in calls:
        with pytest.raises(ManagerClosed, match="async with manager") as caught:
            await call()
        assert not caught.value.entered


@pytest.mark.anyio
async def test_a_manager_that_has_ended_says_that_it_was_entered() -> None:
    async with SessionManager() as manager:
        pass
    for call in (manager.create_session, lambda: manager.lease("a").__aenter__(), manager.preview_cleanup):
        with pytest.raises(ManagerClosed, match="not running") as caught:
            await call()
        assert caught.value.entered


@pytest.mark.parametrize("error_type", [SessionNotFound, SessionExists])
@given(session_id=st.text(min_size=4))
def test_no_message_contains_the_id(error_type: type[SessionNotFound | SessionExists], session_id: str) -> None:
    fixed = str(error_type("")) + repr(error_type(""))
    error = error_type(session_id)

    assert session_id in fixed or session_id not in str(error) + repr(error)


@pytest.mark.parametrize("error_type", [SessionNotFound, SessionExists])
def test_the_errors_of_one_id_show_the_same_hash_of_it(error_type: type[SessionNotFound | SessionExists]) -> None:
    # printf s3cret | b2sum -l 64
    assert "256de8280e909a01" in str(error_type("s3cret"))


def test_an_id_that_is_no_proper_text_can_be_reported() -> None:
    assert "no session" in str(SessionNotFound("\udcff"))


def test_a_missing_session_has_its_id_and_no_reason() -> None:
    error = SessionNotFound("s3cret")

    assert (error.session_id, error.reason) == ("s3cret", None)


def test_an_ended_session_has_its_id_and_its_reason() -> None:
    error = SessionNotFound("s3cret", EndReason.IDLE_TIMEOUT)

    assert (error.session_id, error.reason) == ("s3cret", EndReason.IDLE_TIMEOUT)


def test_the_message_for_an_ended_session_says_why_it_ended() -> None:
    assert str(SessionNotFound("s3cret", EndReason.IDLE_TIMEOUT)).endswith(": it ended (idle_timeout)")


def test_an_existing_session_has_its_id() -> None:
    assert SessionExists("s3cret").session_id == "s3cret"


def test_too_many_sessions_has_its_limit_and_when_to_come_back() -> None:
    error = TooManySessions(5, 1.5)

    assert (error.limit, error.retry_after, error.reason) == (5, 1.5, RejectionReason.MAX_SESSIONS)


def test_too_many_sessions_may_not_know_when_to_come_back() -> None:
    assert TooManySessions(5).retry_after is None


def test_the_message_of_too_many_sessions_names_the_cap() -> None:
    error = TooManySessions(2, reason=RejectionReason.MAX_SESSIONS_PER_CLIENT)

    assert str(error) == "all 2 places of max_sessions_per_client are taken"


def test_the_message_of_too_many_sessions_says_when_a_place_may_be_free() -> None:
    assert str(TooManySessions(5, 1.25)) == "all 5 places of max_sessions are taken; a place may be free in 1.25 s"
