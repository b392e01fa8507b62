from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec_secure.errors import CodecError, FedsecError, PeerViolationError, VerificationError
from fedsec_secure.identity.channel import OVERHEAD, SESSION_BYTES, Opening, welcome
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import Roster, SiteId

PLAN, OTHER = bytes(32), bytes([1]) * 32
COORDINATOR, A, B, STRANGER = (SigningKey.generate() for _ in range(4))
SITE = SiteId("site-a")
ROSTER = Roster(COORDINATOR.public, {SITE: A.public, SiteId("site-b"): B.public})


def greet(*, key=A, plan=PLAN, site=SITE):
    return Opening.make(site, plan, "fedsec 0", key.sign)


def accept(opening, *, claimed=SITE, plan=PLAN, key=COORDINATOR):
    return welcome(opening.packet, claimed, plan, ROSTER, "fedsec 0", key.sign)


def connect():
    opening = greet()
    coordinator, answer, says = accept(opening)
    site, words = opening.finish(answer, PLAN, ROSTER)
    assert says == words == "fedsec 0"
    return site, coordinator


def upper(plain):
    return plain.upper()


def test_requests_and_replies_come_through_and_nothing_of_them_is_readable_on_the_way():
    site, coordinator = connect()
    seen = []

    def carry(frame):
        reply = coordinator.serve(frame, upper)
        seen.extend([frame, reply])
        return reply

    for word in (b"", b"one", b"two" * 1000):
        assert site.call(word, carry) == word.upper()
    assert [len(f) - OVERHEAD for f in seen] == [0, 0, 3, 3, 3000, 3000]
    assert not any(b"two" in f or b"TWO" in f for f in seen)


def test_every_channel_has_keys_of_its_own():
    first, second = connect(), connect()
    frames = []
    for site, coordinator in (first, second):
        site.call(b"same", lambda f, c=coordinator: frames.append(f) or c.serve(f, upper))
    assert frames[0][:SESSION_BYTES] != frames[1][:SESSION_BYTES]
    with pytest.raises(VerificationError, match="made before, or in another session"):
        second[1].serve(frames[0], upper)


def test_a_request_that_is_repeated_is_not_served_again():
    site, coordinator = connect()
    served, frames = [], []

    def carry(frame):
        frames.append(frame)
        return coordinator.serve(frame, lambda plain: served.append(plain) or plain)

    site.call(b"one", carry)
    site.call(b"two", carry)
    for frame in list(frames):
        with pytest.raises(VerificationError, match="made before"):
            carry(frame)
    assert served == [b"one", b"two"]


def test_a_reply_to_another_request_is_not_taken():
    site, coordinator = connect()
    replies = []
    site.call(b"one", lambda f: replies.append(coordinator.serve(f, upper)) or replies[0])
    with pytest.raises(VerificationError, match="another request"):
        site.call(b"two", lambda f: replies[0])


@given(st.integers(0, 10**6), st.integers(1, 255), st.booleans())
def test_one_changed_byte_anywhere_in_a_frame_is_refused(where, change, back):
    site, coordinator = connect()

    def alter(frame):
        changed = bytearray(frame)
        changed[where % len(frame)] ^= change
        return bytes(changed)

    def carry(frame):
        if back:
            return alter(coordinator.serve(frame, upper))
        return coordinator.serve(alter(frame), upper)

    with pytest.raises(VerificationError):
        site.call(b"words", carry)


@given(st.binary(max_size=100))
def test_rubbish_is_refused_and_never_anything_else(data):
    site, coordinator = connect()
    with pytest.raises(FedsecError):
        coordinator.serve(data, upper)
    with pytest.raises((VerificationError, CodecError)):
        site.call(b"words", lambda f: data)
    with pytest.raises(FedsecError):
        greet().finish(data, PLAN, ROSTER)
    with pytest.raises(FedsecError):
        welcome(data, SITE, PLAN, ROSTER, "", COORDINATOR.sign)


def test_who_greets_in_a_site_s_name_needs_its_key():
    with pytest.raises(VerificationError):
        accept(greet(key=STRANGER))
    with pytest.raises(VerificationError):
        accept(greet(key=B))
    with pytest.raises(PeerViolationError, match="pinned roster"):
        accept(greet(key=STRANGER, site=SiteId("site-x")), claimed=SiteId("site-x"))


def test_who_welcomes_needs_the_coordinator_s_key():
    opening = greet()
    for key in (STRANGER, A, B):
        with pytest.raises(VerificationError):
            opening.finish(accept(opening, key=key)[1], PLAN, ROSTER)


def test_a_greeting_of_another_plan_is_refused_and_so_is_a_welcome():
    with pytest.raises(PeerViolationError, match="another plan"):
        accept(greet(plan=OTHER))
    opening = greet(plan=OTHER)
    _, answer, _ = accept(opening, plan=OTHER)
    with pytest.raises(PeerViolationError, match="another plan"):
        opening.finish(answer, PLAN, ROSTER)


def test_a_welcome_to_another_greeting_is_refused():
    first, second = greet(), greet()
    with pytest.raises(PeerViolationError):
        second.finish(accept(first)[1], PLAN, ROSTER)


def test_a_greeting_that_is_repeated_gives_a_channel_that_its_sender_cannot_use():
    opening = greet()
    _, answer, _ = accept(opening)
    site, _ = opening.finish(answer, PLAN, ROSTER)
    again, _, _ = accept(opening)
    with pytest.raises(VerificationError):
        site.call(b"words", lambda f: again.serve(again.session + f[SESSION_BYTES:], upper))


def test_secrets_are_not_shown():
    site, coordinator = connect()
    assert "secret" not in repr(greet()).lower().replace("secretbytes", "")
    for channel in (site._channel, coordinator._channel):
        assert channel.sending.reveal().hex() not in repr(channel)
        assert "sending" not in repr(channel)


def test_software_that_cannot_be_printed_is_refused():
    opening = Opening.make(SITE, PLAN, "one\ntwo", A.sign)
    with pytest.raises(PeerViolationError, match="printable"):
        accept(opening)


@pytest.mark.parametrize("number", [0, 1 << 63, (1 << 64) - 1])
def test_a_number_that_no_request_has_is_the_sender_s_fault(number):
    site, coordinator = connect()
    with pytest.raises(VerificationError):
        site.call(b"words", lambda f: coordinator.serve(f[:SESSION_BYTES] + number.to_bytes(8, "big") + f[24:], upper))
