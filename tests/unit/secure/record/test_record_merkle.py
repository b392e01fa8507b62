"""Merkle trees and proofs against the published vectors, the RFC's own definition, and forged proofs."""

import hashlib
from dataclasses import replace

import pytest

from fedsec_secure.errors import CodecError, LocalMisuseError, VerificationError
from fedsec_secure.record.merkle import (
    EMPTY_ROOT,
    ConsistencyProof,
    InclusionProof,
    TreeHead,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from fedsec_secure.record.tree import Frontier, MerkleTree

# The test tree of Certificate Transparency: leaves, and the roots over the first 0 to 8 of them.
LEAVES = [
    bytes.fromhex(x)
    for x in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# (index, size) -> path, and (old size, new size) -> path, from the same test suite.
PATHS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
PROOFS = {
    (1, 1): [],
    (1, 8): PATHS[0, 8],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
TREE = MerkleTree(leaf_hash(x) for x in LEAVES)


def heads(size):
    return TreeHead(size, bytes.fromhex(ROOTS[size]))


def test_the_roots_are_the_published_ones():
    frontier = Frontier()
    assert heads(0).root == EMPTY_ROOT
    for size, leaf in enumerate(LEAVES, 1):
        frontier = frontier.append(leaf_hash(leaf))
        assert frontier.head() == heads(size) == TREE.head(size) == MerkleTree(map(leaf_hash, LEAVES[:size])).head()
        assert frontier == TREE.frontier(size)


def test_the_proofs_are_the_published_ones_and_hold():
    for (index, size), path in PATHS.items():
        proof = TREE.inclusion(index, size)
        assert proof == InclusionProof(index, size, tuple(map(bytes.fromhex, path)))
        verify_inclusion(proof, leaf_hash(LEAVES[index]), heads(size))
    for (old, new), path in PROOFS.items():
        proof = TREE.consistency(old, new)
        assert proof == ConsistencyProof(old, new, tuple(map(bytes.fromhex, path)))
        verify_consistency(proof, heads(old), heads(new))


def test_the_example_of_rfc_6962_section_2_1_3():
    a, b, c, d, e, f, j = (leaf_hash(bytes([i])) for i in range(7))
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, m = node_hash(g, h), node_hash(i, j)
    tree = MerkleTree([a, b, c, d, e, f, j])
    assert tree.head().root == node_hash(k, m)
    assert tree.head(3).root == node_hash(g, c)
    assert tree.head(6).root == node_hash(k, i)
    assert [tree.inclusion(x).path for x in (0, 3, 4, 6)] == [(b, h, m), (c, g, m), (f, j, k), (i, k)]
    assert tree.consistency(3).path == (c, d, g, m)
    assert tree.consistency(4).path == (m,)
    assert tree.consistency(6).path == (i, j, k)


def test_hashes_are_domain_separated():
    assert leaf_hash(b"x") == hashlib.sha256(b"\x00x").digest()
    left, right = leaf_hash(b"l"), leaf_hash(b"r")
    # A leaf whose data are two hashes is another hash than the node over them (second preimage).
    assert node_hash(left, right) == hashlib.sha256(b"\x01" + left + right).digest() != leaf_hash(left + right)


def test_a_proof_does_not_fix_the_size_so_the_head_has_to():
    """Leaf 0 has the same siblings in shape for 7 and 8 leaves: without check 1 the size could be lied about."""
    proof = TREE.inclusion(0, 8)
    with pytest.raises(VerificationError, match="inclusion check 1"):
        verify_inclusion(replace(proof, size=7), leaf_hash(LEAVES[0]), heads(8))
    verify_inclusion(replace(proof, size=7), leaf_hash(LEAVES[0]), TreeHead(7, heads(8).root))


def test_each_check_of_an_inclusion_proof_has_its_number():
    proof, leaf = TREE.inclusion(5), leaf_hash(LEAVES[5])
    for path in (proof.path[:-1], (*proof.path, bytes(32)), ()):
        with pytest.raises(VerificationError, match="inclusion check 2"):
            verify_inclusion(replace(proof, path=path), leaf, heads(8))
    with pytest.raises(VerificationError, match="inclusion check 3"):
        verify_inclusion(proof, leaf_hash(LEAVES[4]), heads(8))
    with pytest.raises(VerificationError, match="inclusion check 3"):
        verify_inclusion(proof, leaf, TreeHead(8, bytes(32)))
    with pytest.raises(LocalMisuseError, match="hash of 32 bytes"):
        verify_inclusion(proof, LEAVES[5], heads(8))


def test_each_check_of_a_consistency_proof_has_its_number():
    proof = TREE.consistency(6)
    with pytest.raises(VerificationError, match="consistency check 1"):
        verify_consistency(proof, heads(5), heads(8))
    with pytest.raises(VerificationError, match="consistency check 1"):
        verify_consistency(TREE.consistency(6, 7), heads(6), heads(8))
    for path in (proof.path[:-1], (*proof.path, bytes(32)), ()):
        with pytest.raises(VerificationError, match="consistency check 2"):
            verify_consistency(replace(proof, path=path), heads(6), heads(8))
    with pytest.raises(VerificationError, match="consistency check 3"):
        verify_consistency(proof, TreeHead(6, bytes(32)), heads(8))
    with pytest.raises(VerificationError, match="consistency check 4"):
        verify_consistency(proof, heads(6), TreeHead(8, bytes(32)))


def test_a_perfect_old_tree_needs_a_proof_as_well():
    """The old root is put in front of the path, so an empty path would otherwise lead to the old root at once."""
    with pytest.raises(VerificationError, match="consistency check 2"):
        verify_consistency(ConsistencyProof(4, 8, ()), heads(4), heads(8))
    with pytest.raises(VerificationError, match="consistency check 2"):
        verify_consistency(ConsistencyProof(4, 8, ()), heads(4), TreeHead(8, heads(4).root))


def test_from_an_empty_tree_and_between_equal_sizes_the_proof_is_empty():
    verify_consistency(ConsistencyProof(0, 8, ()), heads(0), heads(8))
    verify_consistency(ConsistencyProof(0, 0, ()), heads(0), heads(0))
    verify_consistency(ConsistencyProof(8, 8, ()), heads(8), heads(8))
    for old in (0, 8):
        with pytest.raises(VerificationError, match="consistency check 2"):
            verify_consistency(ConsistencyProof(old, 8, (bytes(32),)), heads(old), heads(8))
    with pytest.raises(VerificationError, match="consistency check 4"):
        verify_consistency(ConsistencyProof(8, 8, ()), heads(8), TreeHead(8, bytes(32)))


def test_encodings_round_trip_and_no_kind_passes_for_another():
    values = (TREE.inclusion(5), TREE.consistency(6), TREE.frontier(7), Frontier(), TREE.inclusion(0, 1))
    for value in values:
        assert type(value).decode(value.encode()) == value
        for kind in {InclusionProof, ConsistencyProof, Frontier} - {type(value)}:
            with pytest.raises(CodecError):
                kind.decode(value.encode())


def test_encodings_are_bounded_and_possible():
    good = TREE.inclusion(5).encode()
    numbers = good.index(b"v1") + 2
    for change in (
        good[:-1],
        good + b"\0",
        good[:numbers] + (8).to_bytes(8, "big") + good[numbers + 8 :],  # the index is the size
        good[:numbers] + (1 << 63).to_bytes(8, "big") + good[numbers + 8 :],
        good[: numbers + 16] + b"\xff" + bytes(255 * 32),
        b"",
    ):
        with pytest.raises(CodecError):
            InclusionProof.decode(change)
    proof = TREE.consistency(6).encode()
    at = proof.index(b"v1") + 2
    with pytest.raises(CodecError):
        ConsistencyProof.decode(proof[:at] + (9).to_bytes(8, "big") + proof[at + 8 :])
    with pytest.raises(CodecError):
        Frontier.decode(Frontier().encode()[:-1] + b"\1")


@pytest.mark.parametrize(
    "make",
    [
        lambda: TreeHead(-1, bytes(32)),
        lambda: TreeHead(1 << 63, bytes(32)),
        lambda: TreeHead(1, bytes(31)),
        lambda: TreeHead(0, bytes(32)),
        lambda: InclusionProof(1, 1, ()),
        lambda: InclusionProof(-1, 1, ()),
        lambda: InclusionProof(0, 1 << 63, ()),
        lambda: InclusionProof(0, 2, (bytes(31),)),
        lambda: InclusionProof(0, 2, (bytes(32),) * 65),
        lambda: ConsistencyProof(2, 1, ()),
        lambda: ConsistencyProof(-1, 1, ()),
        lambda: Frontier(1, ()),
        lambda: Frontier(1, (bytes(31),)),
        lambda: Frontier(1 << 63, (bytes(32),)),
        lambda: Frontier().append(b""),
        lambda: MerkleTree([b""]),
        lambda: TREE.head(9),
        lambda: TREE.head(-1),
        lambda: TREE.inclusion(8),
        lambda: TREE.inclusion(4, 4),
        lambda: TREE.inclusion(-1),
        lambda: TREE.consistency(9),
        lambda: TREE.consistency(5, 4),
    ],
)
def test_what_cannot_be_is_misuse(make):
    with pytest.raises(LocalMisuseError):
        make()


@pytest.mark.parametrize(("index", "size"), [(8, 8), (4, 4), (-1, 8), (0, 0)])
def test_there_is_no_path_to_a_leaf_that_is_not_there(index, size):
    with pytest.raises(LocalMisuseError, match=f"of {size} leaves has no leaf {index}"):
        TREE.inclusion(index, size)


def test_append_gives_the_index():
    tree = MerkleTree()
    assert [tree.append(leaf_hash(x)) for x in LEAVES] == list(range(8))
    assert tree.size == 8
