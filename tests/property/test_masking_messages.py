"""Every message: a value or CodecError and nothing else; one value, one encoding; no bit of a packet can be changed."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.wire import TrainRequest, VerdictRequest
from fedsec_secure.codec import Header, Reader, Writer, head_length, open_head, open_packet, seal, sha256
from fedsec_secure.errors import CodecError, PeerViolationError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.masking.group_messages import CombineRequest, GroupSum, Scores
from fedsec_secure.masking.messages import (
    SEALED_BYTES,
    Dealing,
    MaskRequest,
    Promise,
    Revealed,
    ShareKind,
    ShareReply,
    Statement,
    decode_packets,
    encode_packets,
)
from fedsec_secure.masking.tag import PRIME as TAG_PRIME
from fedsec_secure.numeric.shamir import PRIME, encode_share

SITES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)
HASH = st.binary(min_size=32, max_size=32)
BOX = st.binary(min_size=SEALED_BYTES, max_size=SEALED_BYTES)
BLOB = st.binary(max_size=80)
LEVEL = st.one_of(st.integers(0, 80), st.just(255))
SHARE = st.integers(0, PRIME - 1).map(encode_share)
PACKETS = st.dictionaries(SITES, BLOB, max_size=6)
MESSAGES = {
    "statement": (st.builds(Statement, HASH, HASH, HASH), Statement.decode),
    "scored statement": (st.builds(Statement, HASH, HASH, HASH, LEVEL), partial(Statement.decode, scored=True)),
    "dealing": (
        st.builds(Dealing, HASH, HASH, HASH, st.dictionaries(SITES, st.builds(Promise, HASH, HASH, HASH), max_size=6)),
        Dealing.decode,
    ),
    "revealed": (
        st.builds(Revealed, st.dictionaries(SITES, st.tuples(st.sampled_from(ShareKind), SHARE), max_size=6)),
        Revealed.decode,
    ),
    "share reply": (st.builds(ShareReply, BLOB, st.lists(BOX, max_size=4)), ShareReply.decode),
    "mask request": (
        st.dictionaries(SITES, st.tuples(BLOB, BOX), max_size=4).map(
            lambda d: MaskRequest({s: v[0] for s, v in d.items()}, {s: v[1] for s, v in d.items()})
        ),
        MaskRequest.decode,
    ),
    "train request": (
        st.builds(TrainRequest, SITES, st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), BLOB, PACKETS),
        TrainRequest.decode,
    ),
    "group sum": (
        st.builds(GroupSum, st.frozensets(SITES, max_size=6).map(lambda s: tuple(sorted(s))), HASH),
        GroupSum.decode,
    ),
    "scores": (
        st.lists(st.tuples(HASH, LEVEL), max_size=6).flatmap(
            lambda rows: st.builds(
                Scores, st.just(tuple(h for h, _ in rows)), st.just(tuple(n for _, n in rows)), st.integers(0, 255)
            )
        ),
        Scores.decode,
    ),
    "verdict request": (st.builds(VerdictRequest, PACKETS, st.integers(0, TAG_PRIME - 1), BLOB), VerdictRequest.decode),
    "combine request": (
        st.lists(st.tuples(PACKETS, BLOB), max_size=4).flatmap(
            lambda rows: st.builds(CombineRequest, BLOB, st.just([p for p, _ in rows]), st.just([w for _, w in rows]))
        ),
        CombineRequest.decode,
    ),
    "header": (st.builds(Header, SITES, SITES, HASH, st.integers(0, 2**64 - 1), HASH), Header.decode),
}
EVERY = pytest.mark.parametrize("name", list(MESSAGES))


def encoded(value) -> bytes:
    """The words of verdict requests are not copied: they have parts."""
    return b"".join(value.parts()) if isinstance(value, (VerdictRequest, CombineRequest)) else value.encode()


@EVERY
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip_and_any_change_is_refused_or_another_value(name, data):
    strategy, decode = MESSAGES[name]
    value = data.draw(strategy)
    raw = encoded(value)
    assert decode(raw) == value
    assert decode(memoryview(raw)) == value
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = bytearray(raw)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        other = decode(bytes(changed))
    except CodecError:
        return
    assert other != value
    assert encoded(other) == bytes(changed), "two encodings of one value"


@EVERY
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_truncated_and_extended_messages_are_refused(name, data):
    strategy, decode = MESSAGES[name]
    raw = encoded(data.draw(strategy))
    if name != "verdict request":  # its words are all that is left; the length of a sum is checked with the sum
        with pytest.raises(CodecError):
            decode(raw + data.draw(st.binary(min_size=1, max_size=3)))
        with pytest.raises(CodecError):
            decode(raw[: data.draw(st.integers(0, len(raw) - 1))])


@EVERY
@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=300))
def test_arbitrary_bytes_are_a_value_or_a_codec_error(name, raw):
    decode = MESSAGES[name][1]
    try:
        value = decode(raw)
    except CodecError:
        return
    assert encoded(value) == raw


@given(PACKETS)
def test_sets_of_packets_round_trip_sorted(packets):
    decoded = decode_packets(encode_packets(packets), "test")
    assert decoded == packets
    assert list(decoded) == sorted(packets)


def entries(*sites: str) -> bytes:
    out = Writer().uint(len(sites), 2)
    for site in sites:
        out.text(site).blob(b"x")
    return out.done()


@pytest.mark.parametrize("sites", [("b", "a"), ("a", "a"), ("a", "c", "b")])
def test_unsorted_and_repeated_sites_are_refused(sites):
    with pytest.raises(CodecError, match="sorted and distinct"):
        decode_packets(entries(*sites), "test")
    revealed = Writer().uint(len(sites), 2)
    dealing = Writer().fixed(bytes(96), 96).uint(len(sites), 2)
    request = Writer().uint(len(sites), 2)
    for site in sites:
        revealed.text(site).uint(1, 1).fixed(bytes(33), 33)
        dealing.text(site).fixed(bytes(96), 96)
        request.text(site).blob(b"x").fixed(bytes(SEALED_BYTES), SEALED_BYTES)
    for decode, raw in ((Revealed.decode, revealed), (Dealing.decode, dealing), (MaskRequest.decode, request)):
        with pytest.raises(CodecError, match="sorted and distinct"):
            decode(raw.done())


@pytest.mark.parametrize("kind", [0, 3, 255])
def test_a_revealed_share_is_of_one_of_two_kinds(kind):
    raw = Writer().uint(1, 2).text("a").uint(kind, 1).fixed(bytes(33), 33).done()
    with pytest.raises(CodecError, match="a kind is 1 or 2"):
        Revealed.decode(raw)


def test_a_share_at_the_prime_or_above_is_refused():
    def raw(value: int) -> bytes:
        return Writer().uint(1, 2).text("a").uint(1, 1).fixed(value.to_bytes(33, "big"), 33).done()

    Revealed.decode(raw(PRIME - 1))
    with pytest.raises(CodecError):
        Revealed.decode(raw(PRIME))


@pytest.mark.parametrize("claimed", [1, 1001, 0xFFFF])
def test_counts_beyond_the_bytes_or_the_bound_cost_nothing(claimed):
    for decode in (Revealed.decode, MaskRequest.decode, lambda raw: decode_packets(raw, "test")):
        with pytest.raises(CodecError):
            decode(claimed.to_bytes(2, "big"))
    with pytest.raises(CodecError):
        Reader(b"\xff\xff\xff\xff", "test").blob(most=1 << 17)


def test_invalid_utf8_is_a_codec_error():
    with pytest.raises(CodecError, match="UTF-8"):
        Reader(b"\x00\x01\xff", "test").text()


# ---- packets

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
CONTEXT = sha256(b"context")
PACKET = seal("statement", "site-a", CONTEXT, b"forty-two bytes of a body that is signed..", KEY.sign)
DUE = {"kind": "statement", "sender": "site-a", "context": CONTEXT, "verify": KEY.public.verify}


def test_every_bit_of_a_packet_is_covered():
    head = head_length(PACKET)
    assert bytes(open_packet(PACKET, **DUE)) == PACKET[head:]
    for bit in range(8 * len(PACKET)):
        changed = bytearray(PACKET)
        changed[bit // 8] ^= 1 << (bit % 8)
        at = bit // 8
        expected: tuple[type[Exception], ...] = (VerificationError,)
        if at < 4 or at >= head:
            expected = (CodecError,)  # the magic; the body, through its signed hash
        elif at < 6:
            expected = (CodecError, VerificationError)  # where the header ends
        with pytest.raises(expected):
            open_packet(bytes(changed), **DUE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "dealing"}, "expected a 'dealing' packet"),
        ({"sender": "site-b"}, "names 'site-a'"),
        ({"context": sha256(b"another")}, "another plan, run, round, attempt, roster or adapter"),
    ],
)
def test_a_valid_packet_of_another_kind_sender_or_context_is_refused(change, message):
    with pytest.raises(PeerViolationError, match=message):
        open_packet(PACKET, **(DUE | change))
    with pytest.raises(PeerViolationError, match=message):
        open_head(PACKET, **(DUE | change))


def test_a_packet_under_another_key_is_refused():
    with pytest.raises(VerificationError):
        open_packet(PACKET, **(DUE | {"verify": OTHER.public.verify}))


def test_a_body_of_another_length_is_refused():
    for body in (PACKET[:-1], PACKET + b"x", PACKET[: head_length(PACKET)]):
        with pytest.raises(CodecError, match="does not match its signed hash"):
            open_packet(body, **DUE)


def raw_packet(header: bytes, key: SigningKey) -> bytes:
    return PACKET[:4] + len(header).to_bytes(2, "big") + header + key.sign(b"fedsec packet v1\x00" + header)


def test_the_signature_is_checked_before_anything_is_parsed(monkeypatch):
    """A header that does not parse: unsigned it is a bad signature, only signed it is a bad header."""
    rubbish = b"\xff" * 40
    with pytest.raises(VerificationError):
        open_packet(raw_packet(rubbish, OTHER), **DUE)
    with pytest.raises(CodecError):
        open_packet(raw_packet(rubbish, KEY), **DUE)
    steps = []
    parse = Header.decode

    def verify(signature, data):
        steps.append("verify")
        KEY.public.verify(signature, data)

    monkeypatch.setattr(Header, "decode", lambda raw: steps.append("parse") or parse(raw))
    open_packet(PACKET, **(DUE | {"verify": verify}))
    assert steps == ["verify", "parse"]


def test_a_signature_of_another_domain_does_not_fit():
    header = PACKET[6 : head_length(PACKET) - 64]
    bare = PACKET[:4] + len(header).to_bytes(2, "big") + header + KEY.sign(header) + PACKET[head_length(PACKET) :]
    with pytest.raises(VerificationError):
        open_packet(bare, **DUE)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_packets_raise_codec_or_verification_errors_only(raw):
    for data in (raw, PACKET[:4] + raw, PACKET[:6] + raw):
        with pytest.raises((CodecError, VerificationError)):
            open_packet(data, **DUE)
