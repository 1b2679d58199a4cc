"""What a forwarded request says, and who can say it."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_sessions import ConfigError
from otel_sessions.fleet.signing import HEADER, Passage, Proof, Secrets, Word, expiry, same_expiry

OLD, NEW, FOREIGN = b"the old secret of the fleet", b"the new secret of the fleet", b"the secret of another fleet"
NOW: Final = 1_000.0
TEXT: Final = st.text(st.characters(max_codepoint=255), max_size=20)
PASSAGES: Final = st.builds(
    Passage,
    owner=TEXT,
    session_id=TEXT,
    scheme=st.sampled_from(["http", "https", "ws", "wss"]),
    client=st.none() | st.tuples(TEXT, st.integers(0, 65535)),
    expires=st.integers(int(NOW), int(NOW) + 60),
    epoch=st.integers(0, 2**63),
    hop=st.just(1),
)
TARGETS: Final = st.binary(min_size=1, max_size=20)


def passage(hop: int = 1, expires: int = int(NOW) + 60) -> Passage:
    return Passage(owner="w1", session_id="w1.x", scheme="http", client=("10.0.0.7", 1), expires=expires, hop=hop)


@given(PASSAGES, TARGETS)
def test_what_is_signed_is_read_as_it_was_said(said: Passage, target: bytes) -> None:
    value, proof = Secrets([NEW]).sign(said, "GET", target)
    assert Secrets([NEW]).check(value, "GET", target, NOW) == (said, proof)
    assert value.isascii()
    assert not set(value) & set(b" \t\r\n")


@pytest.mark.parametrize(
    "session_id", ["w1.a b", "w1.a,b", "w1.%41", "w1.\u00e9", "w1.\udc80", "w1.\U0001f600", "w1.\x00", "", " "]
)
def test_an_id_of_any_characters_is_read_as_it_was_signed(session_id: str) -> None:
    said = passage()._replace(session_id=session_id)
    value, proof = Secrets([NEW]).sign(said, "GET", b"/")
    assert Secrets([NEW]).check(value, "GET", b"/", NOW) == (said, proof)
    assert value.decode("ascii").isprintable()
    assert b" " not in value


@given(PASSAGES, st.data())
def test_a_header_with_any_byte_changed_is_refused(said: Passage, data: st.DataObject) -> None:
    value, _ = Secrets([NEW]).sign(said, "GET", b"/")
    at = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != value[at]))
    changed = value[:at] + bytes([other]) + value[at + 1 :]
    assert Secrets([NEW]).check(changed, "GET", b"/", NOW) is None


@given(PASSAGES, st.data())
def test_a_header_that_is_cut_or_longer_is_refused(said: Passage, data: st.DataObject) -> None:
    value, _ = Secrets([NEW]).sign(said, "GET", b"/")
    cut = value[: data.draw(st.integers(0, len(value) - 1))]
    assert Secrets([NEW]).check(cut, "GET", b"/", NOW) is None
    assert Secrets([NEW]).check(value + data.draw(st.binary(min_size=1)), "GET", b"/", NOW) is None


@given(st.text(max_size=5), st.binary(max_size=8), st.text(max_size=5), st.binary(max_size=8))
def test_a_signature_is_good_for_one_method_and_one_target(
    method: str, target: bytes, other_method: str, other_target: bytes
) -> None:
    value, _ = Secrets([NEW]).sign(passage(), method, target)
    good = Secrets([NEW]).check(value, other_method, other_target, NOW) is not None
    assert good == ((method, target) == (other_method, other_target))


@given(st.binary(max_size=200))
def test_no_other_header_is_taken_for_a_signature(value: bytes) -> None:
    assert Secrets([OLD, NEW]).check(value, "GET", b"/", NOW) is None


@pytest.mark.parametrize(
    ("signer", "checker", "good"),
    [
        ([OLD], [OLD, NEW], True),
        ([OLD, NEW], [OLD], True),
        ([NEW, OLD], [OLD, NEW], True),
        ([NEW, OLD], [OLD], False),
        ([FOREIGN], [OLD, NEW], False),
    ],
)
def test_the_first_secret_signs_and_every_secret_is_accepted(
    signer: list[bytes], checker: list[bytes], good: bool
) -> None:
    value, proof = Secrets(signer).sign(passage(), "GET", b"/")
    checked = Secrets(checker).check(value, "GET", b"/", NOW)
    assert checked == ((passage(), proof) if good else None)


def test_a_signature_expires() -> None:
    value, _ = Secrets([NEW]).sign(passage(expires=2_000), "GET", b"/")
    assert Secrets([NEW]).check(value, "GET", b"/", 2_000.0) is not None
    assert Secrets([NEW]).check(value, "GET", b"/", 2_000.1) is None


@pytest.mark.parametrize("hop", [0, 2, -1])
def test_a_request_that_was_not_passed_on_exactly_once_is_refused(hop: int) -> None:
    value, _ = Secrets([NEW]).sign(passage(hop=hop), "GET", b"/")
    assert Secrets([NEW]).check(value, "GET", b"/", NOW) is None


@pytest.mark.parametrize("secrets", [[], [b"fifteen bytes.."], [NEW, b""]])
def test_a_fleet_without_a_secret_of_sixteen_bytes_is_refused(secrets: list[bytes]) -> None:
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        Secrets(secrets)


def proof(target: bytes = b"/") -> Proof:
    return Secrets([NEW]).sign(passage(), "GET", target)[1]


@pytest.mark.parametrize("word", list(Word))
def test_an_answer_says_who_has_given_it(word: Word) -> None:
    headers = [(b"server", b"x"), (b"Otel-Sessions-Fleet", proof().answer(word, "w1"))]
    assert proof().said_in(headers) == (word, "w1")


@given(st.sampled_from(list(Word)), st.data())
def test_an_answer_with_any_byte_changed_says_nothing(word: Word, data: st.DataObject) -> None:
    value = proof().answer(word, "w1")
    at = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != value[at]))
    assert proof().said_in([(HEADER, value[:at] + bytes([other]) + value[at + 1 :])]) is None


def test_the_answer_of_the_owner_is_found_once_and_said_as_any_other() -> None:
    signed = proof()
    assert signed.by_owner == signed.by_owner == signed.answer(Word.OWNER)
    assert signed.said_in([(HEADER, signed.by_owner)]) == (Word.OWNER, "")


def test_the_proofs_of_the_same_request_are_equal() -> None:
    assert len({proof(), proof(), proof(b"/other")}) == 2


def test_an_answer_to_another_request_says_nothing() -> None:
    assert proof().said_in([(HEADER, proof(b"/other").answer(Word.OWNER))]) is None


def test_an_answer_that_says_nothing_or_two_things_says_nothing() -> None:
    said = (HEADER, proof().answer(Word.OWNER))
    assert proof().said_in([]) is None
    assert proof().said_in([said, said]) is None
    assert proof().said_in([(HEADER, b"owner")]) is None


@pytest.mark.parametrize("size", [10, 5000])
def test_a_repeated_request_has_the_same_signature_and_is_checked_alike(size: int) -> None:
    secrets, peer = Secrets([b"a secret of the fleet"]), Secrets([b"a secret of the fleet"])
    passage = Passage(owner="w1", session_id="w1." + "x" * size, scheme="http", client=None, expires=100)
    signed = {secrets.sign(passage, "GET", b"/")[0] for _ in range(2)}
    assert len(signed) == 1
    for now, valid in ((50.0, True), (100.0, True), (101.0, False), (99.0, True)):
        checked = peer.check(next(iter(signed)), "GET", b"/", now)
        assert (checked is not None) is valid
        assert checked is None or checked[0] == passage


def test_a_long_word_of_a_peer_is_read_as_a_short_one() -> None:
    _, proof = Secrets([b"a secret of the fleet"]).sign(
        Passage(owner="", session_id="", scheme="http", client=None, expires=1), "GET", b"/"
    )
    for name in ("w1", "w" * 100):
        assert proof.said_in([(HEADER, proof.answer(Word.PEER, name))]) == (Word.PEER, name)


@pytest.mark.parametrize("now", [0.0, 9.9, 10.0, 1_700_000_009.999])
def test_a_signature_is_valid_for_fifty_to_sixty_seconds(now: float) -> None:
    assert now + 50 <= expiry(now) + 1
    assert expiry(now) <= now + 60
    assert expiry(now) % 10 == 0


@given(
    now=st.floats(min_value=0, max_value=4_000_000_000),
    later=st.floats(min_value=-20, max_value=20),
)
def test_a_signature_is_said_to_be_the_same_as_long_as_it_is(now: float, later: float) -> None:
    since, until = same_expiry(now)
    other = max(0.0, now + later)
    assert (since <= other < until) is (expiry(other) == expiry(now))
