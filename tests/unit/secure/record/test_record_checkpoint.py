"""Checkpoints: a note assembled by hand opens; anything forged, of another log, or with too few witnesses does not."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedsec_secure.errors import CodecError, LocalMisuseError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.record.checkpoint import (
    MAX_TIME,
    Checkpoint,
    Log,
    add_cosignature,
    cosign,
    open_checkpoint,
    sign_checkpoint,
)
from fedsec_secure.record.merkle import EMPTY_ROOT, TreeHead
from fedsec_secure.record.note import MAX_SIGNATURES

ORIGIN = "example.org/run-1"
LOG_KEY, ONE, TWO, STRANGER = (SigningKey.generate() for _ in range(4))
LOG = Log(ORIGIN, LOG_KEY.public)
WITNESSES = {"site-a": ONE.public, "site-b": TWO.public}
HEAD = TreeHead(20852163, bytes(range(32)))
CHECKPOINT = Checkpoint(ORIGIN, HEAD)
NOTE = sign_checkpoint(CHECKPOINT, LOG_KEY)
TEXT = f"{ORIGIN}\n20852163\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n".encode()
BY_ONE = cosign(CHECKPOINT, "site-a", ONE, 1679315147)
BY_TWO = cosign(CHECKPOINT, "site-b", TWO, 1679315148)


def line(name, kind, public, blob):
    """A signature line, put together from the specification alone."""
    identifier = hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]
    return b"\xe2\x80\x94 " + name.encode() + b" " + base64.b64encode(identifier + blob) + b"\n"


def signed(text, key=LOG_KEY, name=ORIGIN):
    return text + b"\n" + line(name, 1, key.public.raw, key.sign(text))


def test_a_note_made_by_hand_opens():
    log = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
    witness = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
    text = b"example.com/behind-the-sofa\n3\nrrpvDzFbYrm+HzDlhpPpIVmy1xm0LpEDXXR8fAuvDUI=\n"
    time = 1679315147
    over = b"cosignature/v1\ntime 1679315147\n" + text
    note = (
        text
        + b"\n"
        + line("example.com/behind-the-sofa", 1, log.public_key().public_bytes_raw(), log.sign(text))
        + line("w.example", 4, witness.public_key().public_bytes_raw(), time.to_bytes(8, "big") + witness.sign(over))
    )
    key, other = SigningKey(log), SigningKey(witness)
    opened = open_checkpoint(
        note, Log("example.com/behind-the-sofa", key.public), {"w.example": other.public}, threshold=1
    )
    root = base64.b64decode("rrpvDzFbYrm+HzDlhpPpIVmy1xm0LpEDXXR8fAuvDUI=")
    assert opened.checkpoint == Checkpoint("example.com/behind-the-sofa", TreeHead(3, root))
    assert opened.cosigned == {"w.example": time}
    # Ed25519 is deterministic: the same note comes out when it is made here.
    made = sign_checkpoint(opened.checkpoint, key)
    assert add_cosignature(made, cosign(opened.checkpoint, "w.example", other, time), "w.example", other.public) == note


def test_text_and_parse_are_inverse():
    assert CHECKPOINT.text() == TEXT
    assert Checkpoint.parse(TEXT) == CHECKPOINT
    for head in (TreeHead(0, EMPTY_ROOT), TreeHead((1 << 63) - 1, bytes(32)), TreeHead(10, bytes(32))):
        assert Checkpoint.parse(Checkpoint(ORIGIN, head).text()) == Checkpoint(ORIGIN, head)


ROOT64 = base64.b64encode(bytes(range(32)))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n\n",
        TEXT[:-1],
        TEXT + b"\n",
        TEXT + b"extension\n",
        b"\n" + TEXT,
        b"\n1\n" + ROOT64 + b"\n",
        b"a b\n1\n" + ROOT64 + b"\n",
        b"a+b\n1\n" + ROOT64 + b"\n",
        b"a\r\n1\n" + ROOT64 + b"\n",
        b"\xff\n1\n" + ROOT64 + b"\n",
        b"a\n\n" + ROOT64 + b"\n",
        b"a\n01\n" + ROOT64 + b"\n",
        b"a\n00\n" + ROOT64 + b"\n",
        b"a\n+1\n" + ROOT64 + b"\n",
        b"a\n-1\n" + ROOT64 + b"\n",
        b"a\n 1\n" + ROOT64 + b"\n",
        b"a\n1 \n" + ROOT64 + b"\n",
        b"a\n1_0\n" + ROOT64 + b"\n",
        b"a\n0x1\n" + ROOT64 + b"\n",
        "a\n\u0661\n".encode() + ROOT64 + b"\n",
        b"a\n9223372036854775808\n" + ROOT64 + b"\n",
        b"a\n" + b"1" * 400 + b"\n" + ROOT64 + b"\n",
        b"a\n1\n" + ROOT64[:-1] + b"\n",
        b"a\n1\n" + ROOT64[:-2] + b"9=\n",
        b"a\n1\n" + base64.b64encode(bytes(31)) + b"\n",
        b"a\n1\n" + base64.b64encode(bytes(33)) + b"\n",
        b"a\n1\n" + base64.urlsafe_b64encode(b"\xff" * 32) + b"\n",
        b"a\n0\n" + ROOT64 + b"\n",
        b"a" * 600 + b"\n1\n" + ROOT64 + b"\n",
    ],
)
def test_another_form_of_a_checkpoint_is_refused_even_when_it_is_signed(text):
    with pytest.raises(CodecError):
        Checkpoint.parse(text)
    if text.endswith(b"\n") and b"\r" not in text and b"\xff" not in text:
        with pytest.raises(CodecError, match="checkpoint check 5"):
            open_checkpoint(signed(text), LOG)


def test_a_checkpoint_is_bounded_before_it_is_read():
    with pytest.raises(CodecError, match="at most 512 bytes; found 600"):
        Checkpoint.parse(b"a" * 600)


def test_check_1_the_form_of_the_note():
    for data in (b"", TEXT, TEXT + b"\n", NOTE + b"\n", NOTE[:-1], NOTE.replace(b"\n", b"\r\n")):
        with pytest.raises(CodecError, match="checkpoint check 1"):
            open_checkpoint(data, LOG)


def test_check_2_the_log_has_to_sign():
    for data in (signed(TEXT, STRANGER), signed(TEXT, LOG_KEY, "another"), TEXT + b"\n" + BY_ONE):
        with pytest.raises(VerificationError, match="checkpoint check 2"):
            open_checkpoint(data, LOG, WITNESSES)
    # A cosignature by the log's own key, which would have the log's name but another type, is not its signature.
    over = (5).to_bytes(8, "big") + LOG_KEY.sign(b"cosignature/v1\ntime 5\n" + TEXT)
    with pytest.raises(VerificationError, match="checkpoint check 2"):
        open_checkpoint(TEXT + b"\n" + line(ORIGIN, 4, LOG_KEY.public.raw, over), LOG)


def test_check_3_every_signature_of_a_known_key_has_to_hold():
    good = NOTE + BY_ONE
    assert open_checkpoint(good, LOG, WITNESSES, 1).cosigned == {"site-a": 1679315147}
    time = (1679315147).to_bytes(8, "big")
    forged = [
        line(ORIGIN, 1, LOG_KEY.public.raw, bytes(64)),
        line(ORIGIN, 1, LOG_KEY.public.raw, LOG_KEY.sign(TEXT)[:-1]),
        line("site-b", 4, TWO.public.raw, time + bytes(64)),
        line("site-b", 4, TWO.public.raw, time + TWO.sign(TEXT)),  # a signature without the header and time
        line("site-b", 4, TWO.public.raw, time + TWO.sign(b"cosignature/v1\ntime 1679315148\n" + TEXT)),
        line("site-b", 4, TWO.public.raw, TWO.sign(TEXT)),
        line("site-b", 4, TWO.public.raw, time + TWO.sign(b"cosignature/v1\ntime 1679315147\n" + TEXT) + b"\0"),
        line("site-b", 4, TWO.public.raw, time + STRANGER.sign(b"cosignature/v1\ntime 1679315147\n" + TEXT)),
        line(
            "site-b",
            4,
            TWO.public.raw,
            (1 << 63).to_bytes(8, "big") + TWO.sign(b"cosignature/v1\ntime 9223372036854775808\n" + TEXT),
        ),
    ]
    for bad in forged:
        for data in (good + bad, NOTE + bad + BY_ONE):
            with pytest.raises(VerificationError, match="checkpoint check 3"):
                open_checkpoint(data, LOG, WITNESSES)


def test_every_flipped_bit_is_refused():
    note = NOTE + BY_ONE
    for i in range(8 * len(note)):
        bad = bytearray(note)
        bad[i // 8] ^= 1 << (i % 8)
        with pytest.raises((CodecError, VerificationError)):
            open_checkpoint(bytes(bad), LOG, WITNESSES, 1)


def test_unknown_signatures_are_ignored():
    unknown = [
        line("stranger", 4, STRANGER.public.raw, bytes(72)),
        line("site-a", 4, STRANGER.public.raw, bytes(72)),  # a known name with another key
        line("site-a", 6, ONE.public.raw, bytes(2428)),  # a known name with another type of signature
        line("another", 1, LOG_KEY.public.raw, bytes(64)),  # a known key under another name
        "— site-a AAAAAAA=\n".encode(),
    ]
    note = TEXT + b"\n" + b"".join(unknown) + NOTE[len(TEXT) + 1 :] + BY_ONE
    assert open_checkpoint(note, LOG, WITNESSES, 1).checkpoint == CHECKPOINT
    with pytest.raises(VerificationError, match=r"checkpoint check 4: expected .* by 2 .* found 1"):
        open_checkpoint(note, LOG, WITNESSES, 2)


def test_check_4_counts_different_witnesses():
    assert open_checkpoint(NOTE + BY_TWO + BY_ONE, LOG, WITNESSES, 2).cosigned == {
        "site-a": 1679315147,
        "site-b": 1679315148,
    }
    again = cosign(CHECKPOINT, "site-a", ONE, 1700000000)
    for note in (NOTE, NOTE + BY_ONE, NOTE + BY_ONE + BY_ONE, NOTE + BY_ONE + again):
        with pytest.raises(VerificationError, match="checkpoint check 4"):
            open_checkpoint(note, LOG, WITNESSES, 2)
    for note in (NOTE + BY_ONE + again, NOTE + again + BY_ONE):
        assert open_checkpoint(note, LOG, WITNESSES, 1).cosigned == {"site-a": 1700000000}


def test_one_key_under_two_names_counts_once():
    witnesses = {**WITNESSES, "site-c": ONE.public}
    note = NOTE + BY_ONE + cosign(CHECKPOINT, "site-c", ONE, 1)
    assert set(open_checkpoint(note, LOG, witnesses, 1).cosigned) == {"site-a", "site-c"}
    with pytest.raises(VerificationError, match="checkpoint check 4"):
        open_checkpoint(note, LOG, witnesses, 2)
    with pytest.raises(LocalMisuseError, match="threshold"):
        open_checkpoint(note, LOG, witnesses, 3)


def test_check_6_a_checkpoint_of_another_log_under_the_same_key():
    other = Checkpoint("example.org/run-2", HEAD).text()
    with pytest.raises(VerificationError, match="checkpoint check 6"):
        open_checkpoint(signed(other), LOG)


def test_cosignatures_are_verified_before_they_are_added():
    note = add_cosignature(NOTE, BY_ONE, "site-a", ONE.public)
    assert note == NOTE + BY_ONE
    assert add_cosignature(note, BY_ONE, "site-a", ONE.public) == note
    later = cosign(CHECKPOINT, "site-a", ONE, 1700000000)
    assert add_cosignature(note, later, "site-a", ONE.public) == NOTE + later
    assert add_cosignature(note, BY_TWO, "site-b", TWO.public) == NOTE + BY_ONE + BY_TWO
    for bad in (
        cosign(Checkpoint(ORIGIN, TreeHead(1, bytes(32))), "site-a", ONE, 1),
        line("site-a", 4, ONE.public.raw, bytes(72)),
        line("site-a", 4, ONE.public.raw, bytes(64)),
        BY_TWO,
        line("site-a", 1, ONE.public.raw, ONE.sign(TEXT)),
        cosign(CHECKPOINT, "site-a", STRANGER, 1),
        cosign(CHECKPOINT, "another-name", ONE, 1),
        line("site-a", 4, ONE.public.raw, bytes(7)),
    ):
        with pytest.raises(VerificationError):
            add_cosignature(NOTE, bad, "site-a", ONE.public)
    with pytest.raises(CodecError):
        add_cosignature(NOTE, BY_ONE[:-1], "site-a", ONE.public)
    with pytest.raises(CodecError):
        add_cosignature(NOTE[:-1], BY_ONE, "site-a", ONE.public)
    full = NOTE + "— a AAAAAAA=\n".encode() * (MAX_SIGNATURES - 1)
    with pytest.raises(LocalMisuseError):
        add_cosignature(full, BY_ONE, "site-a", ONE.public)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Log("", LOG_KEY.public),
        lambda: Log("a b", LOG_KEY.public),
        lambda: Log("a\nb", LOG_KEY.public),
        lambda: Checkpoint("a+b", HEAD),
        lambda: Checkpoint("\ud800", HEAD),
        lambda: cosign(CHECKPOINT, "site-a", ONE, -1),
        lambda: cosign(CHECKPOINT, "site-a", ONE, MAX_TIME + 1),
        lambda: cosign(CHECKPOINT, "a b", ONE, 0),
        lambda: cosign(CHECKPOINT, "\ud800", ONE, 0),
        lambda: cosign(CHECKPOINT, ORIGIN, ONE, 0),
        lambda: open_checkpoint(NOTE, LOG, WITNESSES, 3),
        lambda: open_checkpoint(NOTE, LOG, WITNESSES, -1),
        lambda: open_checkpoint(NOTE, LOG, {}, 1),
        lambda: open_checkpoint(NOTE, LOG, {"site-a": LOG_KEY.public}, 1),
        lambda: open_checkpoint(NOTE, LOG, {ORIGIN: ONE.public}, 1),
    ],
)
def test_what_could_not_protect_is_misuse(make):
    with pytest.raises(LocalMisuseError):
        make()


def test_times_at_both_ends_are_cosigned():
    for time in (0, MAX_TIME):
        note = add_cosignature(NOTE, cosign(CHECKPOINT, "site-a", ONE, time), "site-a", ONE.public)
        assert open_checkpoint(note, LOG, WITNESSES, 1).cosigned == {"site-a": time}
