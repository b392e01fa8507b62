"""Notes, checkpoints and entries from outside: a value or the reader's own errors, and one text for one value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec_secure.errors import CodecError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.record.checkpoint import (
    Checkpoint,
    Log,
    add_cosignature,
    cosign,
    open_checkpoint,
    sign_checkpoint,
)
from fedsec_secure.record.entries import LEAF_DOMAIN, RefusalEntry, SurvivorsEntry, decode_entry
from fedsec_secure.record.merkle import TreeHead
from fedsec_secure.record.note import NoteSignature, SignedNote

LOG_KEY, WITNESS = SigningKey.generate(), SigningKey.generate()
LOG = Log("log", LOG_KEY.public)
CHECKPOINT = Checkpoint("log", TreeHead(12, bytes(32)))
LINE = cosign(CHECKPOINT, "site", WITNESS, 7)
NOTE = sign_checkpoint(CHECKPOINT, LOG_KEY) + LINE
ENTRIES = (
    RefusalEntry(site="a", exchange="train", reason="no approval").leaf_data(),
    SurvivorsEntry(run="r", round=3, sites=("a", "b"), uploads_sha256="0" * 64).leaf_data(),
)
PIECES = st.sampled_from(["log\n", "\n", "\n\n", "12\n", "0", "— ", "site ", "AAAAAAA=", "=", "+", " ", "\u2028", "é"])
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=30).map(lambda x: "".join(x).encode("utf-8", "surrogatepass"))
NAMES = st.text(min_size=1, max_size=40).filter(
    lambda x: not any(c.isspace() or c == "+" or c < " " or "\ud800" <= c <= "\udfff" for c in x)
)


@st.composite
def mutations(draw, good):
    """One or two edits of a good input."""
    out = bytearray(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(1, 2))):
        at, cut = draw(st.integers(0, len(out))), draw(st.integers(0, 12))
        out[at : at + cut] = draw(st.binary(max_size=6) | st.sampled_from([b"\n", b"\n\n", b"=", b" ", b"0", b'","']))
    return bytes(out)


@given(st.one_of(st.binary(max_size=200), TEXTS, mutations([NOTE])))
def test_a_note_is_a_value_with_this_text_or_a_codec_error(data):
    try:
        note = SignedNote.parse(data)
    except CodecError:
        return
    assert note.encode() == data


@given(st.one_of(st.binary(max_size=200), TEXTS, mutations([CHECKPOINT.text()])))
def test_a_checkpoint_is_a_value_with_this_text_or_a_codec_error(data):
    try:
        checkpoint = Checkpoint.parse(data)
    except CodecError:
        return
    assert checkpoint.text() == data


@given(st.one_of(st.binary(max_size=200), TEXTS, mutations([NOTE, LINE])))
def test_no_changed_note_says_anything_else(data):
    try:
        opened = open_checkpoint(data, LOG, {"site": WITNESS.public}, 1)
    except (CodecError, VerificationError):
        return
    # Lines of unknown keys may come and go; what was signed may not.
    assert opened.checkpoint == CHECKPOINT
    assert opened.cosigned == {"site": 7}


@given(st.one_of(st.binary(max_size=200), TEXTS, mutations([LINE])))
def test_no_changed_line_is_added(data):
    try:
        note = add_cosignature(NOTE, data, "site", WITNESS.public)
    except (CodecError, VerificationError):
        return
    assert (note, data) == (NOTE, LINE)


@given(st.one_of(st.binary(max_size=200).map(lambda x: LEAF_DOMAIN + x), st.binary(max_size=40), mutations(ENTRIES)))
def test_an_entry_is_a_value_with_this_text_or_a_codec_error(data):
    try:
        entry = decode_entry(data)
    except CodecError:
        return
    assert entry.leaf_data() == data


@given(NAMES, st.integers(1, (1 << 63) - 1), st.binary(min_size=32, max_size=32), st.integers(0, (1 << 63) - 1))
def test_any_origin_size_root_and_time_round_trip(origin, size, root, time):
    checkpoint = Checkpoint(origin, TreeHead(size, root))
    assert Checkpoint.parse(checkpoint.text()) == checkpoint
    name = origin + "/witness"
    note = sign_checkpoint(checkpoint, LOG_KEY)
    note = add_cosignature(note, cosign(checkpoint, name, WITNESS, time), name, WITNESS.public)
    opened = open_checkpoint(note, Log(origin, LOG_KEY.public), {name: WITNESS.public}, 1)
    assert (opened.checkpoint, opened.cosigned) == (checkpoint, {name: time})


@given(NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=3000))
def test_any_signature_line_round_trips(name, identifier, signature):
    line = NoteSignature(name, identifier, signature)
    assert NoteSignature.parse(line.line()) == line


@pytest.mark.parametrize("size", [1, 2, 500])
def test_notes_with_many_signatures_are_read(size):
    keys = {f"site-{i}": SigningKey.generate() for i in range(size)}
    note = sign_checkpoint(CHECKPOINT, LOG_KEY) + b"".join(cosign(CHECKPOINT, n, k, 1) for n, k in keys.items())
    opened = open_checkpoint(note, LOG, {n: k.public for n, k in keys.items()}, size)
    assert len(opened.cosigned) == size
