"""What goes over a link: one encoding each, and CodecError for all else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.engines.link import envelope
from fedsec.engines.link.messages import (
    MAX_PIECE,
    MAX_REASON,
    Announce,
    Gone,
    Have,
    Heard,
    Next,
    Nothing,
    Order,
    Over,
    Piece,
    Pull,
    Push,
    Refuse,
    Rest,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from fedsec_secure.codec import Writer
from fedsec_secure.errors import CodecError, LocalMisuseError, TransportError
from fedsec_secure.identity.channel import MAX_HANDSHAKE

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
DIGEST = st.binary(min_size=32, max_size=32)
BYTES = st.binary(max_size=300).map(memoryview)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_REASON // 4)
NAME = st.text(st.characters(exclude_categories=["Cs"]), max_size=16)
REQUESTS = st.one_of(
    st.builds(Next, U32, U64),
    st.builds(Pull, U64, U64, st.integers(0, MAX_PIECE)),
    st.builds(Announce, U64, st.booleans(), U64, DIGEST),
    st.builds(Push, U64, U64, BYTES),
    st.builds(Refuse, U64, WORDS),
    st.just(Heard()),
)
ANSWERS = st.one_of(
    st.builds(Order, U64, NAME, U64, DIGEST),
    st.sampled_from([Nothing(), Rest(), Gone()]),
    st.builds(Over, WORDS),
    st.builds(Piece, BYTES),
    st.builds(Have, U64),
)


@given(REQUESTS)
def test_a_request_comes_back_as_it_was(message):
    assert decode_request(encode_request(message)) == message


@given(ANSWERS)
def test_an_answer_comes_back_as_it_was(message):
    assert decode_answer(encode_answer(message)) == message


@given(REQUESTS, st.integers(0, 2**20), st.binary(min_size=1, max_size=5))
def test_a_request_that_is_cut_or_too_long_is_refused(message, where, more):
    raw = encode_request(message)
    with pytest.raises(CodecError):
        decode_request(raw[: where % len(raw)])
    with pytest.raises(CodecError, match="too many"):
        decode_request(raw + more)


@given(ANSWERS, st.integers(0, 2**20), st.binary(min_size=1, max_size=5))
def test_an_answer_that_is_cut_or_too_long_is_refused(message, where, more):
    raw = encode_answer(message)
    with pytest.raises(CodecError):
        decode_answer(raw[: where % len(raw)])
    with pytest.raises(CodecError, match="too many"):
        decode_answer(raw + more)


@given(st.binary(max_size=80))
def test_rubbish_is_a_value_with_that_encoding_or_a_codec_error(data):
    for decode, encode in ((decode_request, encode_request), (decode_answer, encode_answer)):
        try:
            value = decode(data)
        except CodecError:
            continue
        assert encode(value) == data


@pytest.mark.parametrize(("decode", "kinds"), [(decode_request, range(1, 6)), (decode_answer, range(1, 8))])
def test_only_the_kinds_that_there_are_are_read(decode, kinds):
    for kind in set(range(256)) - set(kinds):
        with pytest.raises(CodecError):
            decode(bytes([kind]) + bytes(60))


def test_what_is_longer_than_its_bound_is_refused_before_it_is_read():
    one_more = (MAX_PIECE + 1).to_bytes(4, "big")
    with pytest.raises(CodecError, match=str(MAX_PIECE)):
        decode_request(b"\x02" + bytes(16) + one_more)
    with pytest.raises(CodecError, match=str(MAX_PIECE)):
        decode_request(b"\x04" + bytes(16) + one_more)
    with pytest.raises(CodecError, match=str(MAX_PIECE)):
        decode_answer(b"\x05" + one_more)
    with pytest.raises(CodecError, match="at most 1 "):
        decode_request(b"\x03" + bytes(8) + b"\x02" + bytes(40))
    words = Writer().text("x" * (MAX_REASON + 1)).done()
    for decode, head in ((decode_request, b"\x05" + bytes(8)), (decode_answer, b"\x04")):
        with pytest.raises(CodecError, match=str(MAX_REASON)):
            decode(head + words)
        with pytest.raises(CodecError, match="UTF-8"):
            decode(head + b"\x00\x01\xff")
    with pytest.raises(CodecError, match="64"):
        decode_answer(b"\x01" + bytes(8) + Writer().text("x" * 65).done() + bytes(40))


def test_what_does_not_fit_is_not_encoded():
    for message in (Next(1 << 32, 0), Pull(1 << 64, 0, 1), Announce(1, True, -1, bytes(32)), Announce(1, True, 1, b"")):
        with pytest.raises(LocalMisuseError):
            encode_request(message)


@given(st.sampled_from([envelope.GREETING, envelope.SEALED]), st.binary(max_size=60))
def test_a_frame_is_what_is_expected_or_refused(expected, frame):
    try:
        held = envelope.open_answer(frame, expected)
    except (CodecError, TransportError):
        return
    assert frame == (envelope.welcomed(held) if expected == envelope.GREETING else envelope.sealed(held))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16), st.binary(max_size=MAX_HANDSHAKE))
def test_a_greeting_comes_back_as_it_was_and_is_no_answer_of_another_kind(site, hello):
    frame = envelope.greeting(site, hello)
    assert envelope.open_greeting(frame) == (site, hello)
    with pytest.raises(CodecError):
        envelope.open_answer(frame, envelope.SEALED)


@given(st.binary(max_size=60))
def test_a_greeting_is_read_strictly(frame):
    try:
        site, hello = envelope.open_greeting(frame)
    except CodecError:
        return
    assert envelope.greeting(site, hello) == frame


def test_frames_of_another_kind_are_refused():
    for kind in set(range(256)) - {envelope.GREETING}:
        with pytest.raises(CodecError, match=f"found {kind}"):
            envelope.open_greeting(bytes([kind]) + envelope.greeting("site-a", b"")[1:])
    for kind in set(range(256)) - {envelope.SEALED, envelope.REFUSED, envelope.UNKNOWN}:
        with pytest.raises(CodecError, match=f"found {kind}"):
            envelope.open_answer(bytes([kind]), envelope.SEALED)


def test_a_handshake_that_is_too_long_is_refused():
    for frame in (envelope.greeting("site-a", bytes(MAX_HANDSHAKE + 1)), envelope.greeting("x" * 65, b"")):
        with pytest.raises(CodecError, match="at most"):
            envelope.open_greeting(frame)
    with pytest.raises(CodecError, match=str(MAX_HANDSHAKE)):
        envelope.open_answer(envelope.welcomed(bytes(MAX_HANDSHAKE + 1)), envelope.GREETING)


@given(st.text(max_size=2000))
def test_a_refusal_is_words_on_one_line_whatever_they_were(reason):
    with pytest.raises(TransportError, match="the other end says: ") as found:
        envelope.open_answer(envelope.refused(reason), envelope.SEALED)
    assert str(found.value).isprintable()


def test_refusals_that_are_no_text_or_longer_are_no_words():
    for frame in (envelope.refused("no") + b"x", b"\x03\x00\x01\xff", b"\x03\x0f\xa1" + b"x" * 4001):
        with pytest.raises(CodecError):
            envelope.open_answer(frame, envelope.SEALED)
    with pytest.raises(CodecError):
        envelope.open_answer(envelope.UNKNOWN_SESSION + b"x", envelope.SEALED)
    with pytest.raises(envelope.SessionLostError):
        envelope.open_answer(envelope.UNKNOWN_SESSION, envelope.SEALED)
