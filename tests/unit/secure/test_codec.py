"""Fields are written within their bounds or not at all."""

from __future__ import annotations

import pytest

from fedsec_secure.codec import MAGIC, Reader, Writer, head_length, seal, seal_head, sha256
from fedsec_secure.errors import CodecError, LocalMisuseError
from fedsec_secure.identity.keys import SigningKey


def test_fields_have_the_documented_bytes():
    raw = Writer().uint(258, 2).fixed(b"ab", 2).blob(b"xyz").text("é").done()
    assert raw == b"\x01\x02" + b"ab" + b"\x00\x00\x00\x03xyz" + b"\x00\x02\xc3\xa9"
    r = Reader(raw, "test")
    assert (r.uint(2), r.fixed(2), r.blob(most=3), r.text()) == (258, b"ab", b"xyz", "é")
    r.done()


@pytest.mark.parametrize(("value", "size"), [(-1, 1), (256, 1), (1 << 16, 2), (1 << 64, 8)])
def test_integers_that_do_not_fit_are_not_written(value, size):
    with pytest.raises(LocalMisuseError):
        Writer().uint(value, size)


def test_fixed_fields_have_their_size():
    with pytest.raises(LocalMisuseError, match="expected 32 bytes, found 31"):
        Writer().fixed(bytes(31), 32)


def test_a_reader_says_where_and_what():
    r = Reader(b"\x00\x05abc", "dealing")
    with pytest.raises(CodecError, match="dealing: 5 more bytes expected at offset 2, 3 found"):
        r.text()
    with pytest.raises(CodecError, match="an integer of at most 3 expected at offset 0"):
        Reader(b"\x04", "x").uint(1, most=3)
    with pytest.raises(CodecError, match="2 bytes too many"):
        Reader(b"ab", "x").done()


def test_a_view_is_read_only_and_the_rest_is_all():
    data = bytearray(b"\x00\x00\x00\x02abcd")
    r = Reader(data, "x")
    view = r.view(most=2)
    with pytest.raises(TypeError):
        view[0] = 0
    assert bytes(r.rest()) == b"cd"
    r.done()


def test_a_head_can_be_made_before_its_body_is_in_memory():
    key = SigningKey.generate()
    body = b"a long body"
    whole = seal("masked", "site-a", bytes(32), body, key.sign)
    head = seal_head("masked", "site-a", bytes(32), len(body), sha256(body), key.sign)
    assert whole == head + body
    assert head_length(whole) == len(head)


@pytest.mark.parametrize(
    "data", [b"", MAGIC, MAGIC + b"\x00", b"FSP\x02" + bytes(200), MAGIC + b"\xff\xff" + bytes(600)]
)
def test_what_is_no_packet_is_refused(data):
    with pytest.raises(CodecError):
        head_length(data)
