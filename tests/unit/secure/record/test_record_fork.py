"""A coordinator that shows two histories: what a reader, two readers together, and a witness notice."""

import pytest

from fedsec_secure.errors import CodecError, LocalMisuseError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.record.checkpoint import Checkpoint, Log, add_cosignature, open_checkpoint, sign_checkpoint
from fedsec_secure.record.fork import Relation, Witness, compare
from fedsec_secure.record.merkle import ConsistencyProof, TreeHead, leaf_hash
from fedsec_secure.record.tree import MerkleTree

ORIGIN = "example.org/run-1"
COORDINATOR, SITE = SigningKey.generate(), SigningKey.generate()
LOG = Log(ORIGIN, COORDINATOR.public)
TRUE = MerkleTree(leaf_hash(b"entry %d" % i) for i in range(20))
# The same log with entry 3 replaced, as it is shown to someone else.
OTHER = MerkleTree(leaf_hash(b"entry %d" % i if i != 3 else b"forged") for i in range(20))


def at(tree, size):
    return Checkpoint(ORIGIN, tree.head(size))


def note(tree, size):
    return sign_checkpoint(at(tree, size), COORDINATOR)


def test_one_history_is_equal_or_longer_or_shorter():
    assert compare(at(TRUE, 9), at(TRUE, 9)) is Relation.EQUAL
    assert compare(at(TRUE, 9), at(TRUE, 20), TRUE.consistency(9)) is Relation.EXTENDS
    assert compare(at(TRUE, 20), at(TRUE, 9), TRUE.consistency(9)) is Relation.EXTENDED
    assert compare(at(TRUE, 0), at(TRUE, 9)) is Relation.EXTENDS
    assert compare(at(TRUE, 9), at(TRUE, 0), TRUE.consistency(0, 9)) is Relation.EXTENDED
    # Before the entries differ, both are the same history.
    assert compare(at(TRUE, 3), at(OTHER, 20), OTHER.consistency(3)) is Relation.EXTENDS


def test_two_histories_are_a_fork_and_both_notes_prove_it():
    first, second = (open_checkpoint(note(tree, 9), LOG).checkpoint for tree in (TRUE, OTHER))
    with pytest.raises(VerificationError, match=r"fork check 2: .* two different trees of 9 leaves"):
        compare(first, second)


@pytest.mark.parametrize("proof", [TRUE.consistency(9), OTHER.consistency(9), TRUE.consistency(8)])
def test_no_proof_of_either_history_joins_them(proof):
    for pair in ((at(TRUE, 9), at(OTHER, 20)), (at(OTHER, 20), at(TRUE, 9))):
        with pytest.raises(VerificationError, match="fork check 4"):
            compare(*pair, proof)


def test_without_a_proof_nothing_is_decided():
    with pytest.raises(VerificationError, match="fork check 3"):
        compare(at(TRUE, 9), at(TRUE, 20))
    with pytest.raises(VerificationError, match="fork check 4"):
        compare(at(TRUE, 0), at(TRUE, 20), TRUE.consistency(9))


def test_two_logs_are_not_compared():
    with pytest.raises(VerificationError, match="fork check 1"):
        compare(at(TRUE, 9), Checkpoint("example.org/run-2", TRUE.head(9)))


def test_a_witness_follows_one_history():
    witness = Witness(LOG, "site-a")
    for time, (old, new) in enumerate([(0, 1), (1, 9), (9, 9), (9, 20)]):
        proof = None if old in (0, new) else TRUE.consistency(old, new)
        witness, line = witness.cosign(note(TRUE, new), proof, SITE, time)
        assert witness.last == at(TRUE, new)
        cosigned = add_cosignature(note(TRUE, new), line, "site-a", SITE.public)
        assert open_checkpoint(cosigned, LOG, {"site-a": SITE.public}, 1).cosigned == {"site-a": time}


def test_a_witness_goes_on_from_what_was_stored():
    witness, _ = Witness(LOG, "site-a").cosign(note(TRUE, 9), None, SITE, 1)
    assert witness.last is not None
    restored = Witness(LOG, "site-a", Checkpoint.parse(witness.last.text()))
    assert restored == witness
    with pytest.raises(VerificationError, match="fork check 2"):
        restored.cosign(note(OTHER, 9), None, SITE, 2)


def test_a_witness_refuses_a_fork_a_rollback_and_a_stranger():
    witness, _ = Witness(LOG, "site-a").cosign(note(TRUE, 9), None, SITE, 1)
    refused = [
        (note(OTHER, 9), None, "fork check 2"),
        (note(OTHER, 20), OTHER.consistency(9), "fork check 4"),
        (note(OTHER, 20), TRUE.consistency(9), "fork check 4"),
        (note(TRUE, 20), None, "fork check 3"),
        (note(TRUE, 20), TRUE.consistency(8), "fork check 4"),
        (note(TRUE, 20), ConsistencyProof(0, 20, ()), "fork check 4"),
        (note(TRUE, 8), TRUE.consistency(8, 9), "witness check 2"),
        (note(TRUE, 0), None, "witness check 2"),
        (sign_checkpoint(at(TRUE, 20), SITE), TRUE.consistency(9), "checkpoint check 2"),
        (sign_checkpoint(Checkpoint("other", TRUE.head()), COORDINATOR), TRUE.consistency(9), "checkpoint check 2"),
    ]
    for data, proof, message in refused:
        with pytest.raises(VerificationError, match=message):
            witness.cosign(data, proof, SITE, 2)
    with pytest.raises(CodecError):
        witness.cosign(b"", None, SITE, 2)
    assert witness.last == at(TRUE, 9)


def test_two_readers_who_ask_one_honest_witness_cannot_be_shown_two_histories():
    """Either history may come first; the other one then never gets this witness's cosignature."""
    for first, second in ((TRUE, OTHER), (OTHER, TRUE)):
        witness, _ = Witness(LOG, "site-a").cosign(note(first, 9), None, SITE, 1)
        for size in range(9, 21):
            for tree in (TRUE, OTHER):
                proof = None if size == 9 else tree.consistency(9, size)
                with pytest.raises(VerificationError, match=r"fork check [24]"):
                    witness.cosign(note(second, size), proof, SITE, 2)


def test_a_witness_of_the_wrong_log_is_misuse():
    for make in (
        lambda: Witness(LOG, "a b"),
        lambda: Witness(LOG, ORIGIN),
        lambda: Witness(LOG, "site-a", Checkpoint("other", TreeHead(1, bytes(32)))),
    ):
        with pytest.raises(LocalMisuseError):
            make()
