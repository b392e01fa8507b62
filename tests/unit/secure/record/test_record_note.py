"""Signed notes: a published one, the strict form, and one text for one note."""

import base64

import pytest

from fedsec_secure.errors import CodecError, LocalMisuseError
from fedsec_secure.identity.keys import PublicKey
from fedsec_secure.record.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    NOTE_ED25519,
    NoteSignature,
    SignedNote,
    key_id,
)

# The example of the Go package golang.org/x/mod/sumdb/note, from which C2SP took the format.
PUBLISHED_KEY = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
PUBLISHED = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
# The example of C2SP tlog-cosignature: a log's line and a witness's.
COSIGNED = (
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeM"
    "cTOAYQ8=\n"
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+"
    "mbIUBkBIfZ+qnA==\n"
).encode()
LINE = "— a AAAAAAA=\n".encode()


def test_the_published_note_parses_and_verifies():
    assert PUBLISHED_KEY[0] == NOTE_ED25519
    key = PublicKey(PUBLISHED_KEY[1:])
    note = SignedNote.parse(PUBLISHED)
    (signature,) = note.signatures
    assert signature.key_id == key_id("PeterNeumann", NOTE_ED25519, key) == bytes.fromhex("c74f20a3")
    key.verify(signature.signature, note.text)
    assert note.encode() == PUBLISHED


def test_the_example_of_the_cosignature_specification_parses():
    note = SignedNote.parse(COSIGNED)
    log, witness = note.signatures
    assert (log.name, len(log.signature)) == ("example.com/behind-the-sofa", 64)
    assert (witness.name, len(witness.signature)) == ("witness.example.com/w1", 8 + 64)
    assert int.from_bytes(witness.signature[:8], "big") == 1679315147  # the time line of the specification
    assert note.encode() == COSIGNED


def test_the_text_may_hold_blank_lines_and_the_last_one_ends_it():
    note = SignedNote.parse(b"one\n\n\xe2\x80\x94 no signature line\n\ntwo\n\n" + LINE)
    assert note.text == b"one\n\n\xe2\x80\x94 no signature line\n\ntwo\n"
    assert [s.name for s in note.signatures] == ["a"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"text\n",
        b"text\n\n",
        b"text\n\n\n",
        b"text\n" + LINE,
        b"text" + LINE,
        b"\n" + LINE,
        b"text\n\n" + LINE[:-1],
        b"text\n\n" + LINE + b"more\n",
        b"text\r\n\r\n" + LINE,
        b"text\t\n\n" + LINE,
        b"text\0\n\n" + LINE,
        b"\xff\n\n" + LINE,
        b"\xed\xa0\x80\n\n" + LINE,
        b"\xc0\x8a\n\n" + LINE,
        b"text\n\n" + LINE * (MAX_SIGNATURES + 1),
        b"x" * MAX_NOTE_BYTES + b"\n\n" + LINE,
    ],
)
def test_what_is_no_note_is_refused(data):
    with pytest.raises(CodecError):
        SignedNote.parse(data)


@pytest.mark.parametrize(
    "line",
    [
        "- a AAAAAAA=\n",
        "—a AAAAAAA=\n",
        "— a  AAAAAAA=\n",
        "—  a AAAAAAA=\n",
        "— a AAAAAAA= \n",
        "— a b AAAAAAA=\n",
        "— AAAAAAA=\n",
        "—  AAAAAAA=\n",
        "— a+b AAAAAAA=\n",
        "— a\u00a0b AAAAAAA=\n",
        "— a\u2028b AAAAAAA=\n",
        "— a\u0085b AAAAAAA=\n",
        "— a AAAAAAA\n",
        "— a AAAAAAB=\n",
        "— a AAAA*AAAA=\n",
        "— a AAAAAAA==\n",
        "— a AAAAAA==\n",
        "— a AA__AAA=\n",
        "— a \n",
        "— a AÄAAAAA=\n",
        "— a" + "a" * 255 + " AAAAAAA=\n",
        "— a " + base64.b64encode(bytes(4 + 8193)).decode() + "\n",
        "— a AAAAAAA=",
        "— a AAAAAAA=\n\n",
        "— a\nb AAAAAAA=\n",
        "",
    ],
)
def test_what_is_no_signature_line_is_refused(line):
    with pytest.raises(CodecError):
        NoteSignature.parse(line.encode())


def test_a_line_without_its_newline_is_not_cut_short():
    with pytest.raises(CodecError, match="does not end with a newline"):
        NoteSignature.parse(LINE[:-1] + b"A")


def test_a_signature_line_may_have_any_other_name():
    for name in ("a", "example.com/log", "klinikum-münchen", "a" * 255):
        signature = NoteSignature(name, b"1234", b"5")
        assert NoteSignature.parse(signature.line()) == signature


@pytest.mark.parametrize(
    "make",
    [
        lambda: NoteSignature("", bytes(4), bytes(64)),
        lambda: NoteSignature("a b", bytes(4), bytes(64)),
        lambda: NoteSignature("\ud800", bytes(4), bytes(64)),
        lambda: NoteSignature("a", bytes(3), bytes(64)),
        lambda: NoteSignature("a", bytes(4), b""),
        lambda: SignedNote(b"text", (NoteSignature("a", bytes(4), b"1"),)),
        lambda: SignedNote(b"text\n", ()),
        lambda: SignedNote(b"x" * MAX_NOTE_BYTES + b"\n", (NoteSignature("a", bytes(4), b"1"),)).encode(),
        lambda: key_id("a+b", NOTE_ED25519, PublicKey(PUBLISHED_KEY[1:])),
    ],
)
def test_what_cannot_be_written_is_misuse(make):
    with pytest.raises(LocalMisuseError):
        make()
