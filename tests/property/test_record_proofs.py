"""Every proof of every tree up to 70 leaves, against the recursive definition of RFC 6962; and every forged one."""

import hashlib
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec_secure.errors import CodecError, VerificationError
from fedsec_secure.record.merkle import (
    ConsistencyProof,
    InclusionProof,
    TreeHead,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from fedsec_secure.record.tree import Frontier, MerkleTree

MOST = 70
DATA = tuple(b"%d" % i for i in range(MOST))
LEAVES = tuple(leaf_hash(d) for d in DATA)
TREE = MerkleTree(LEAVES)
BIT = st.integers(0, 255)


def split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


@cache
def mth(begin, end):
    """MTH of RFC 6962, section 2.1, word for word."""
    if begin == end:
        return hashlib.sha256(b"").digest()
    if end - begin == 1:
        return hashlib.sha256(b"\0" + DATA[begin]).digest()
    k = begin + split(end - begin)
    return hashlib.sha256(b"\1" + mth(begin, k) + mth(k, end)).digest()


def path(m, begin, end):
    """PATH of section 2.1.1."""
    if end - begin == 1:
        return []
    k = begin + split(end - begin)
    return [*path(m, begin, k), mth(k, end)] if m < k else [*path(m, k, end), mth(begin, k)]


def subproof(m, begin, end, whole):
    """SUBPROOF of section 2.1.2; ``m`` counts from the start of the log."""
    if m == end:
        return [] if whole else [mth(begin, end)]
    k = begin + split(end - begin)
    if m <= k:
        return [*subproof(m, begin, k, whole), mth(k, end)]
    return [*subproof(m, k, end, False), mth(begin, k)]


def head(n):
    return TreeHead(n, mth(0, n))


def flip(value, bit):
    out = bytearray(value)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def flip_one(path, at, bit):
    return (*path[:at], flip(path[at], bit), *path[at + 1 :])


def test_every_root_frontier_and_inclusion_proof_is_the_definition_and_holds():
    frontier = Frontier()
    for n in range(MOST + 1):
        assert TREE.head(n) == frontier.head() == head(n)
        assert Frontier.decode(frontier.encode()) == frontier == TREE.frontier(n)
        for m in range(n):
            proof = TREE.inclusion(m, n)
            assert proof.path == tuple(path(m, 0, n))
            verify_inclusion(proof, LEAVES[m], head(n))
            assert InclusionProof.decode(proof.encode()) == proof
        if n < MOST:
            frontier = frontier.append(LEAVES[n])


def test_every_consistency_proof_is_the_definition_and_holds():
    for n in range(MOST + 1):
        for m in range(n + 1):
            proof = TREE.consistency(m, n)
            assert proof.path == (tuple(subproof(m, 0, n, True)) if m else ())
            verify_consistency(proof, head(m), head(n))
            assert ConsistencyProof.decode(proof.encode()) == proof


def test_no_leaf_passes_at_another_place_or_in_another_tree():
    for n in range(1, 24):
        for m in range(n):
            proof = TREE.inclusion(m, n)
            for other in range(n):
                if other != m:
                    with pytest.raises(VerificationError):
                        verify_inclusion(replace(proof, index=other), LEAVES[m], head(n))
                    with pytest.raises(VerificationError):
                        verify_inclusion(proof, LEAVES[other], head(n))
            for size in range(m + 1, 24):
                if size != n:
                    with pytest.raises(VerificationError):
                        verify_inclusion(replace(proof, size=size), LEAVES[m], head(n))
                    with pytest.raises(VerificationError):
                        verify_inclusion(replace(proof, size=size), LEAVES[m], head(size))


@given(st.data(), st.integers(1, MOST))
def test_a_changed_inclusion_proof_fails(data, n):
    m = data.draw(st.integers(0, n - 1))
    proof, bit = TREE.inclusion(m, n), data.draw(BIT)
    forged = [(replace(proof, path=(*proof.path, bytes(32))), LEAVES[m], head(n))]
    forged.append((proof, flip(LEAVES[m], bit), head(n)))
    forged.append((proof, LEAVES[m], TreeHead(n, flip(head(n).root, bit))))
    if proof.path:
        at = data.draw(st.integers(0, len(proof.path) - 1))
        forged.append((replace(proof, path=flip_one(proof.path, at, bit)), LEAVES[m], head(n)))
        forged.append((replace(proof, path=proof.path[:at] + proof.path[at + 1 :]), LEAVES[m], head(n)))
        forged.append((replace(proof, path=(*proof.path[:at], bytes(32), *proof.path[at:])), LEAVES[m], head(n)))
    for changed, leaf, tree in forged:
        with pytest.raises(VerificationError):
            verify_inclusion(changed, leaf, tree)


@given(st.data(), st.integers(2, MOST))
def test_a_changed_consistency_proof_fails(data, n):
    m = data.draw(st.integers(1, n - 1))
    proof, bit = TREE.consistency(m, n), data.draw(BIT)
    at = data.draw(st.integers(0, len(proof.path) - 1))
    old, new = head(m), head(n)
    forged = [
        (replace(proof, path=flip_one(proof.path, at, bit)), old, new),
        (replace(proof, path=proof.path[:at] + proof.path[at + 1 :]), old, new),
        (replace(proof, path=(*proof.path[:at], bytes(32), *proof.path[at:])), old, new),
        (replace(proof, path=(*proof.path, bytes(32))), old, new),
        (proof, TreeHead(m, flip(old.root, bit)), new),
        (proof, old, TreeHead(n, flip(new.root, bit))),
        (proof, old, TreeHead(n, old.root)),
        (proof, new, new),
        (proof, old, old),
    ]
    other = data.draw(st.integers(0, n).filter(lambda x: x != m))
    forged.append((replace(proof, old_size=other), old, new))
    forged.append((replace(proof, old_size=other), head(other), new))
    forged.append((replace(proof, new_size=n + 1), old, new))
    for changed, first, second in forged:
        with pytest.raises(VerificationError):
            verify_consistency(changed, first, second)


@given(st.integers(1, MOST - 1), st.data())
def test_a_rewritten_log_has_no_proof_from_the_tree_that_was_shown(m, data):
    """The attack itself: one early entry is replaced. Neither log's proof leads from the old root to the new one."""
    n = data.draw(st.integers(m + 1, MOST))
    leaves = list(LEAVES[:n])
    leaves[data.draw(st.integers(0, m - 1))] = leaf_hash(b"another history")
    rewritten = MerkleTree(leaves)
    for proof in (rewritten.consistency(m, n), TREE.consistency(m, n)):
        with pytest.raises(VerificationError):
            verify_consistency(proof, head(m), rewritten.head())


@given(st.sampled_from([InclusionProof, ConsistencyProof, Frontier]), st.data())
def test_decoders_give_a_value_with_these_bytes_or_a_codec_error(kind, data):
    good = {
        InclusionProof: TREE.inclusion(33),
        ConsistencyProof: TREE.consistency(33),
        Frontier: TREE.frontier(),
    }[kind].encode()
    at, cut = data.draw(st.integers(0, len(good))), data.draw(st.integers(0, 40))
    mutated = good[:at] + data.draw(st.binary(max_size=40)) + good[at + cut :]
    try:
        value = kind.decode(mutated)
    except CodecError:
        return
    assert value.encode() == mutated
