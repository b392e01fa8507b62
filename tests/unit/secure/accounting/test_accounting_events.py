"""Events and entries have one text each, and reading gives a value or CodecError."""

import dataclasses
import json
import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec_secure.accounting.entries import Anchor, Entry, Open, Reserve, Spend, Witness
from fedsec_secure.accounting.events import (
    MAX_DEPTH,
    MAX_EVENT_BYTES,
    MAX_PARTS,
    Composed,
    DiscreteGaussianSumEvent,
    GaussianEvent,
    NonPrivateRelease,
    PoissonSampledEvent,
    PoissonSampledRecordsEvent,
    SelfComposed,
    decode_event,
    encode_event,
    is_private,
)
from fedsec_secure.errors import CodecError, LocalMisuseError
from tests.unit.secure.accounting.accounting_additive import PLAN, RECORD, WARD, charge, small_chain

SUMS = st.builds(
    DiscreteGaussianSumEvent,
    st.floats(1, 2**40),
    st.floats(4, 2**40),
    st.integers(1, 1 << 15),
    st.integers(1, 1 << 40),
)
LEAVES = st.one_of(st.just(NonPrivateRelease()), st.builds(GaussianEvent, st.floats(1e-6, 1e6)), SUMS)
EVENTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(PoissonSampledEvent, st.floats(0, 1, exclude_min=True), inner),
        st.builds(PoissonSampledRecordsEvent, st.floats(0, 1, exclude_min=True), st.integers(1, 256), inner),
        st.builds(SelfComposed, inner, st.integers(1, (1 << 53) - 1)),
        st.builds(Composed, st.lists(inner, min_size=1, max_size=4).map(tuple)),
    ),
    max_leaves=6,
).filter(lambda event: depth_of(event) <= MAX_DEPTH)


def depth_of(event) -> int:
    inside = getattr(event, "events", None) or ([event.event] if hasattr(event, "event") else [])
    return 1 + max((depth_of(e) for e in inside), default=0)


def nested(levels: int):
    event = GaussianEvent(1.0)
    for _ in range(levels - 1):
        event = SelfComposed(event, 2)
    return event


@given(EVENTS)
def test_an_event_has_one_text(event):
    data = encode_event(event)
    assert decode_event(data) == event
    assert encode_event(decode_event(data)) == data
    for other in (b" " + data, data + b"\n", data[:-1]):
        with pytest.raises(CodecError):
            decode_event(other)


@given(EVENTS, st.integers(0, 63), st.integers(0, 1000))
def test_any_other_byte_is_another_event_or_refused(event, change, place):
    data = bytearray(encode_event(event))
    data[place % len(data)] ^= 1 << (change % 8)
    try:
        other = decode_event(bytes(data))
    except CodecError:
        return
    assert other != event


@given(st.binary(max_size=200))
def test_garbage_is_refused(data):
    with pytest.raises(CodecError):
        decode_event(data)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["gaussian", "open"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "event", "version", "events", "body", "rate", "count", "x"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@settings(max_examples=300)
@given(JSON)
def test_other_json_is_refused(value):
    for data in (json.dumps(value).encode(), json.dumps({"event": value, "version": 1}).encode()):
        for decode in (decode_event, Entry.decode):
            with pytest.raises(CodecError):
                decode(data)


@pytest.mark.parametrize(
    "text",
    [
        '{"event":{"kind":"gaussian","noise_multiplier":NaN},"version":1}',
        '{"event":{"kind":"gaussian","noise_multiplier":Infinity},"version":1}',
        '{"event":{"kind":"gaussian","noise_multiplier":1e999},"version":1}',
        '{"event":{"kind":"gaussian","noise_multiplier":-1},"version":1}',
        '{"event":{"kind":"gaussian","noise_multiplier":0},"version":1}',
        '{"event":{"kind":"gaussian","noise_multiplier":true},"version":1}',
        '{"event":{"kind":"gaussian","noise_multiplier":"1"},"version":1}',
        '{"event":{"kind":"gaussian","noise_multiplier":1.0},"version":1}',
        '{"event":{"kind":"gaussian","noise_multiplier":1,"noise_multiplier":1},"version":1}',
        '{"event":{"kind":"gaussian","noise_multiplier":1,"x":1},"version":1}',
        '{"event":{"kind":"laplace","noise_multiplier":1},"version":1}',
        '{"event":{"kind":"gaussian","noise_multiplier":1},"version":2}',
        '{"event":{"dimension":9,"kind":"discrete-gaussian-sum","sensitivity":1,"sigma":3.9,"summands":2},"version":1}',
        '{"event":{"dimension":9,"kind":"discrete-gaussian-sum","sensitivity":0,"sigma":4,"summands":2},"version":1}',
        '{"event":{"dimension":9,"kind":"discrete-gaussian-sum","sensitivity":1,"sigma":4,"summands":0},"version":1}',
        '{"event":{"dimension":9,"kind":"discrete-gaussian-sum","sensitivity":1,"sigma":4,"summands":1.5},"version":1}',
        '{"event":{"dimension":9,"kind":"discrete-gaussian-sum","sensitivity":1,"sigma":4},"version":1}',
        '{"event":{"kind":"composed","events":[]},"version":1}',
        '{"event":{"count":0,"event":{"kind":"non-private-release"},"kind":"self-composed"},"version":1}',
        '{"event":{"count":1e0,"event":{"kind":"non-private-release"},"kind":"self-composed"},"version":1}',
        '{"event":{"count":9007199254740992,"event":{"kind":"non-private-release"},"kind":"self-composed"},"version":1}',
        '{"event":{"event":{"kind":"non-private-release"},"kind":"poisson-sampled","rate":0},"version":1}',
        '{"event":{"event":{"kind":"non-private-release"},"kind":"poisson-sampled","rate":1.5},"version":1}',
        '{"event":{"kind":"\\ud800"},"version":1}',
        '{"event":{"kind":"gaussian","noise_multiplier":1' + "0" * 5000 + '},"version":1}',
        "[" * 100_000,
        "[" * 50_000 + "]" * 50_000,
        " " * (MAX_EVENT_BYTES + 1),
    ],
)
def test_bad_events_are_refused(text):
    with pytest.raises(CodecError):
        decode_event(text.encode())


def test_depth_and_size_are_bounded():
    assert decode_event(encode_event(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(LocalMisuseError, match="deep"):
        nested(MAX_DEPTH + 1)
    inner = '{"kind":"non-private-release"}'
    for _ in range(MAX_DEPTH):
        inner = f'{{"count":2,"event":{inner},"kind":"self-composed"}}'
    with pytest.raises(CodecError):
        decode_event(f'{{"event":{inner},"version":1}}'.encode())
    many = Composed((PoissonSampledEvent(0.1234567890123456, GaussianEvent(1.234567890123456)),) * 511)
    assert len(encode_event(many)) < MAX_EVENT_BYTES
    assert decode_event(encode_event(many)) == many
    with pytest.raises(LocalMisuseError, match="parts"):
        Composed((many, many))
    with pytest.raises(LocalMisuseError):
        Composed((NonPrivateRelease(),) * MAX_PARTS)


@pytest.mark.parametrize(
    "around",
    [
        lambda event: SelfComposed(event, 2),
        lambda event: Composed((event,)),
        lambda event: PoissonSampledEvent(0.5, event),
        lambda event: PoissonSampledRecordsEvent(0.5, 3, event),
    ],
    ids=["self-composed", "composed", "sampled", "sampled-records"],
)
def test_whatever_is_around_it_an_event_is_no_deeper(around):
    """What a ledger could write and not read again would be a charge that nobody can add up."""
    fits = around(nested(MAX_DEPTH - 1))
    assert decode_event(encode_event(fits)) == fits
    with pytest.raises(LocalMisuseError, match="deep"):
        around(nested(MAX_DEPTH))


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, math.inf, 1, 1e-7, 1e7, "1"])
def test_noise_has_bounds(noise):
    with pytest.raises(LocalMisuseError):
        GaussianEvent(noise)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ((0.9, 8.0, 3, 10), "sensitivity"),
        ((2.0**41, 8.0, 3, 10), "sensitivity"),
        ((math.nan, 8.0, 3, 10), "sensitivity"),
        ((1, 8.0, 3, 10), "sensitivity"),
        ((1.0, 3.999, 3, 10), "sigma"),
        ((1.0, 2.0**41, 3, 10), "sigma"),
        ((1.0, math.nan, 3, 10), "sigma"),
        ((1.0, 8, 3, 10), "sigma"),
        ((1.0, 8.0, 0, 10), "summands"),
        ((1.0, 8.0, (1 << 15) + 1, 10), "summands"),
        ((1.0, 8.0, 3.0, 10), "summands"),
        ((1.0, 8.0, True, 10), "summands"),
        ((1.0, 8.0, 3, 0), "dimension"),
        ((1.0, 8.0, 3, (1 << 40) + 1), "dimension"),
    ],
)
def test_a_sum_of_discrete_gaussians_has_bounds(wrong, what):
    with pytest.raises(LocalMisuseError, match=f"needs a .*{what}"):
        DiscreteGaussianSumEvent(*wrong)


def test_the_text_of_each_kind_stays():
    """Ledgers hold these bytes."""
    total = DiscreteGaussianSumEvent(65542.9, 37841.5, 3, 1_000_000)
    assert encode_event(Composed((SelfComposed(PoissonSampledEvent(0.01, GaussianEvent(1.5)), 3), total))) == (
        b'{"event":{"events":[{"count":3,"event":{"event":{"kind":"gaussian","noise_multiplier":1.5},"kind":'
        b'"poisson-sampled","rate":0.01},"kind":"self-composed"},{"dimension":1000000,"kind":"discrete-gaussian-sum",'
        b'"sensitivity":65542.9,"sigma":37841.5,"summands":3}],"kind":"composed"},"version":1}'
    )


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan, 1])
def test_rates_have_bounds(rate):
    with pytest.raises(LocalMisuseError):
        PoissonSampledEvent(rate, NonPrivateRelease())


def test_an_event_is_made_of_events():
    with pytest.raises(LocalMisuseError):
        SelfComposed("gaussian", 2)


def test_one_bare_part_makes_the_whole_bare():
    assert is_private(nested(3))
    assert not is_private(Composed((nested(3), SelfComposed(NonPrivateRelease(), 1))))


# ---- entries


@pytest.mark.parametrize("stored", small_chain(), ids=lambda s: str(s.sequence))
def test_an_entry_has_one_text(stored):
    entry = Entry.decode(stored.body)
    assert entry.encode() == stored.body
    for place in range(len(stored.body)):
        other = stored.body[:place] + bytes([stored.body[place] ^ 1]) + stored.body[place + 1 :]
        with suppress(CodecError):
            assert Entry.decode(other) != entry
    for same in (b" " + stored.body, stored.body + b"\n", stored.body.replace(b":", b": ", 1)):
        with pytest.raises(CodecError, match="canonical"):
            Entry.decode(same)


@given(EVENTS, st.integers(0, (1 << 53) - 1))
def test_every_charge_survives_the_text(event, round_index):
    entry = Entry(7, b"x" * 32, 5, None, Reserve(charge(round_index, event, neighbours="replace-one", unit="record")))
    assert Entry.decode(entry.encode()) == entry


@pytest.mark.parametrize(
    "make",
    [
        lambda: charge(unit="hospital"),
        lambda: charge(neighbours="any"),
        lambda: charge(run=""),
        lambda: charge(run="a b"),
        lambda: charge(run="r" * 65),
        lambda: charge(-1),
        lambda: charge(1 << 53),
        lambda: charge(purpose="Update"),
        lambda: charge(plan=b"p"),
        lambda: charge(population=b"w"),
        lambda: charge(event="gaussian"),
        lambda: Open(WARD, "Ward 7"),
        lambda: Open(b"", "ward"),
        lambda: Spend(0, PLAN),
        lambda: Spend(1, b""),
        lambda: Witness(RECORD, b""),
        lambda: Witness(b"", PLAN),
        lambda: Entry(1, bytes(32), 0, None, Anchor()),
        lambda: Entry(0, bytes(32), 0, None, Open(WARD, "ward")),
        lambda: Entry(1, b"", 0, None, Open(WARD, "ward")),
        lambda: Entry(1, bytes(32), -1, None, Open(WARD, "ward")),
    ],
)
def test_entries_have_bounds(make):
    with pytest.raises(LocalMisuseError, match="expected"):
        make()


def test_the_key_is_what_is_charged_once():
    base = charge()
    assert dataclasses.replace(base, plan=b"q" * 32).key == base.key
    for change in ({"unit": "record"}, {"run": "run-2"}, {"round": 1}, {"purpose": "score"}, {"population": b"c" * 16}):
        assert dataclasses.replace(base, **change).key != base.key
