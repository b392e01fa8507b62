"""A chain that was edited anywhere is refused, and the first bad entry is named."""

from dataclasses import replace

import pytest

from fedsec_secure.accounting.chain import (
    EMPTY,
    Head,
    History,
    StoredEntry,
    entry_digest,
    next_entry,
    verify_chain,
)
from fedsec_secure.accounting.entries import Anchor, Entry, Open, Reserve, Spend, Witness
from fedsec_secure.accounting.events import NonPrivateRelease
from fedsec_secure.errors import CodecError, VerificationError
from tests.unit.secure.accounting.accounting_additive import CLINIC, RECORD, WARD, chain_of, charge, small_chain


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def resealed(entries: list[StoredEntry], changed: StoredEntry) -> list[StoredEntry]:
    """What somebody leaves who edits one entry and computes every digest anew."""
    out, head = [], EMPTY
    for stored in entries:
        entry = Entry.decode(changed.body if stored.sequence == changed.sequence else stored.body)
        out.append(next_entry(head, entry.at, entry.witness, entry.body))
        head = out[-1].head
    return out


def test_a_chain_says_what_was_written():
    entries = small_chain()
    history = verify_chain(entries, entries[-1].head)
    assert history.head == entries[-1].head
    assert [r.sequence for r in history.reservations] == [2, 4, 6]
    assert [r.released for r in history.reservations] == [b"o" * 32, None, None]
    assert history.population("ward") == WARD
    assert history.population("clinic") is None
    assert history.reserved(charge(1)) == history.reservation(4)
    assert history.witness(RECORD) == (6, b"d" * 32)
    assert verify_chain([], EMPTY).head == EMPTY


def test_every_flipped_byte_is_named():
    entries = small_chain()
    for index, stored in enumerate(entries):
        for place in range(len(stored.body)):
            bad = replace(stored, body=flipped(stored.body, place))
            with pytest.raises(VerificationError, match=f"entry {stored.sequence} is wrong"):
                verify_chain([*entries[:index], bad, *entries[index + 1 :]], None)
        for place in range(32):
            bad = replace(stored, digest=flipped(stored.digest, place))
            with pytest.raises(VerificationError, match=f"entry {stored.sequence} is wrong"):
                verify_chain([*entries[:index], bad, *entries[index + 1 :]], None)


def test_a_new_digest_for_an_edited_entry_breaks_the_next():
    entries = small_chain()
    for index in range(1, len(entries) - 1):
        old = Entry.decode(entries[index].body)
        body = replace(old, at=old.at + 1).encode()
        edited = StoredEntry(index + 1, body, entry_digest(body))
        with pytest.raises(VerificationError, match=f"entry {index + 2} is wrong.*follow"):
            verify_chain([*entries[:index], edited, *entries[index + 1 :]], None)


@pytest.mark.parametrize("number", [2, 4, 6])
def test_an_entry_has_the_number_of_its_place(number):
    """With another inside, its reservation would take the place of an earlier one, or of none."""
    entries = small_chain()
    body = Entry(number, entries[4].digest, 5, None, Reserve(charge(9))).encode()
    wrong = StoredEntry(6, body, entry_digest(body))
    if number == 6:
        assert [r.sequence for r in verify_chain([*entries[:5], wrong], None).reservations] == [2, 4, 6]
        return
    with pytest.raises(VerificationError, match="entry 6 is wrong: it does not follow"):
        verify_chain([*entries[:5], wrong], None)


def test_computing_every_digest_anew_meets_the_anchor():
    """Whoever makes a bare release look private, consistently, is caught by any head that was recorded after it."""
    entries = small_chain()
    old = Entry.decode(entries[3].body)
    cheaper = replace(old, body=Reserve(charge(1))).encode()
    forged = resealed(entries, StoredEntry(4, cheaper, entry_digest(cheaper)))
    verify_chain(forged, None)  # nothing in the file itself can tell
    for anchor in entries[:3]:
        verify_chain(forged, anchor.head)
    for anchor in entries[3:]:
        with pytest.raises(VerificationError, match=f"entry {anchor.sequence} is not the one"):
            verify_chain(forged, anchor.head)


def test_a_shorter_chain_meets_the_anchor():
    entries = small_chain()
    for kept in range(len(entries)):
        verify_chain(entries[:kept], None)
        with pytest.raises(VerificationError, match=f"entry {len(entries)}.*newest found is {kept}"):
            verify_chain(entries[:kept], entries[-1].head)


def test_removed_swapped_and_repeated_entries_are_named():
    entries = small_chain()
    for index in range(len(entries) - 1):
        with pytest.raises(VerificationError, match=f"entry {index + 1} is wrong"):
            verify_chain(entries[:index] + entries[index + 1 :], None)
        swapped = [*entries[:index], entries[index + 1], entries[index], *entries[index + 2 :]]
        with pytest.raises(VerificationError, match=f"entry {index + 1} is wrong"):
            verify_chain(swapped, None)
    with pytest.raises(VerificationError, match="entry 7 is wrong"):
        verify_chain([*entries, entries[-1]], None)
    renumbered = replace(entries[1], sequence=1)
    with pytest.raises(VerificationError, match="entry 1 is wrong"):
        verify_chain([renumbered], None)


@pytest.mark.parametrize(
    ("bodies", "why"),
    [
        ([Open(WARD, "ward"), Open(CLINIC, "ward")], "opens a population"),
        ([Open(WARD, "ward"), Open(WARD, "clinic")], "opens a population"),
        ([Open(WARD, "ward"), Reserve(charge(population=CLINIC))], "never opened"),
        ([Open(WARD, "ward"), Reserve(charge()), Reserve(charge(event=NonPrivateRelease()))], "second time"),
        ([Open(WARD, "ward"), Spend(1, bytes(32))], "never reserved"),
        ([Open(WARD, "ward"), Spend(2, bytes(32)), Reserve(charge())], "never reserved"),
        ([Open(WARD, "ward"), Reserve(charge()), Spend(2, bytes(32)), Spend(2, bytes(32))], "second time"),
    ],
)
def test_entries_that_no_honest_writer_makes(bodies, why):
    with pytest.raises(VerificationError, match=why):
        verify_chain(chain_of(*bodies), None)


def test_a_refused_entry_changes_nothing():
    entries = small_chain()
    history = History()
    for stored in entries:
        with pytest.raises(VerificationError):
            history.add(replace(stored, digest=bytes(32)))
        history.add(stored)
    assert history.head == entries[-1].head


def test_the_newest_witness_of_each_record_counts():
    history, other = History(), b"s" * 16
    for record, digest in ((RECORD, b"1" * 32), (other, b"2" * 32), (RECORD, b"3" * 32)):
        history.add(next_entry(history.head, 0, Witness(record, digest), Anchor()))
    assert history.witness(RECORD) == (3, b"3" * 32)
    assert history.witness(other) == (2, b"2" * 32)


def test_a_head_has_one_form():
    head = small_chain()[-1].head
    assert Head.decode(head.encode()) == head
    assert len(head.encode()) == 40
    for bad in (b"", head.encode()[:-1], head.encode() + b"x"):
        with pytest.raises(CodecError):
            Head.decode(bad)
