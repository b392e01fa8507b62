"""Trees that grow: the frontier, whose memory is O(log n), and the whole tree, which makes the proofs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

from fedsec_secure.codec import DIGEST_BYTES, Buffer, Reader, Writer
from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.record.merkle import (
    EMPTY_ROOT,
    MAX_TREE_SIZE,
    ConsistencyProof,
    InclusionProof,
    TreeHead,
    expect_tag,
    node_hash,
)

_FRONTIER = "fedsec log frontier v1"


@dataclass(frozen=True)
class Frontier:
    """The roots of the perfect subtrees that make up a tree of ``size`` leaves, the largest first.

    One hash for every 1 bit of the size: all that is needed to append, and to know the root. A log of any length goes
    on from this value without any of its leaves.

    Raises:
        LocalMisuseError: the number or the length of the hashes does not fit the size.
    """

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_TREE_SIZE or len(self.nodes) != self.size.bit_count():
            raise LocalMisuseError(f"{len(self.nodes)} hashes are no frontier of a tree of {self.size} leaves")
        for node in self.nodes:
            _require_hash(node)

    def append(self, leaf: bytes) -> Frontier:
        """The frontier with one more leaf, whose 32-byte `leaf_hash` this is."""
        nodes, size, node = list(self.nodes), self.size, _require_hash(leaf)
        while size & 1:
            node, size = node_hash(nodes.pop(), node), size >> 1
        return Frontier(self.size + 1, (*nodes, node))

    def head(self) -> TreeHead:
        """Size and root."""
        return TreeHead(self.size, _fold(self.nodes) if self.nodes else EMPTY_ROOT)

    def encode(self) -> bytes:
        """Deterministic; at most about 2 KiB."""
        out = Writer().text(_FRONTIER).uint(self.size, 8)
        for node in self.nodes:
            out.fixed(node, DIGEST_BYTES)
        return out.done()

    @classmethod
    def decode(cls, data: Buffer) -> Frontier:
        """Strict inverse of `encode`; CodecError otherwise."""
        r = Reader(data, _FRONTIER)
        expect_tag(r, _FRONTIER)
        size = r.uint(8, most=MAX_TREE_SIZE)
        nodes = tuple(r.fixed(DIGEST_BYTES) for _ in range(size.bit_count()))
        r.done()
        return cls(size, nodes)


class MerkleTree:
    """Every perfect subtree over the leaves, about two hashes a leaf; roots and proofs for any earlier size as well.

    Appending costs one hash on average; a root O(log n) hashes; a proof O(log n) hashes of its own and at most
    O(log n) each for the few subtrees on the right border.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        # _levels[k][i] is the root over the leaves i * 2^k to (i + 1) * 2^k - 1.
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Leaves."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> int:
        """Add a leaf by its 32-byte `leaf_hash`; returns its index."""
        level, node = 0, _require_hash(leaf)
        self._levels[0].append(node)
        while len(self._levels[level]) % 2 == 0:
            node = node_hash(*self._levels[level][-2:])
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(node)
        return self.size - 1

    def frontier(self, size: int | None = None) -> Frontier:
        """The frontier over the first ``size`` leaves, all of them by default."""
        size = self._within(size)
        return Frontier(size, tuple(self._perfect(0, size)))

    def head(self, size: int | None = None) -> TreeHead:
        """Size and root over the first ``size`` leaves, all of them by default."""
        return self.frontier(size).head()

    def inclusion(self, index: int, size: int | None = None) -> InclusionProof:
        """That leaf ``index`` is in the tree of the first ``size`` leaves: PATH(m, D[n]) of RFC 6962, section 2.1.1.

        Raises:
            LocalMisuseError: no such leaf or no such tree.
        """
        size = self._within(size)
        if not 0 <= index < size:
            raise LocalMisuseError(f"the tree of {size} leaves has no leaf {index}")
        path: list[bytes] = []
        begin, end = 0, size
        while end - begin > 1:
            middle = begin + _split(end - begin)
            if index < middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(begin, middle))
                begin = middle
        return InclusionProof(index, size, tuple(reversed(path)))

    def consistency(self, old_size: int, size: int | None = None) -> ConsistencyProof:
        """That the first ``size`` leaves begin with the first ``old_size``: PROOF(m, D[n]) of RFC 6962, section 2.1.2.

        Raises:
            LocalMisuseError: no such trees.
        """
        size = self._within(size)
        if not 0 <= old_size <= size:
            raise LocalMisuseError(f"no consistency proof leads from {old_size} leaves to {size}")
        if old_size in (0, size):
            return ConsistencyProof(old_size, size, ())
        path: list[bytes] = []
        begin, end = 0, size
        while end != old_size:
            middle = begin + _split(end - begin)
            if old_size <= middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(begin, middle))
                begin = middle
        # A subtree that starts the old tree as well is known by its root; any other has to be named.
        if begin != 0:
            path.append(self._root(begin, end))
        return ConsistencyProof(old_size, size, tuple(reversed(path)))

    def _within(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise LocalMisuseError(f"the log has {self.size} leaves; no tree of {size} can be made of it")
        return size

    def _root(self, begin: int, end: int) -> bytes:
        """MTH(D[begin:end]) for a range that RFC 6962 splits off; those begin at a multiple of a power of two."""
        return _fold(self._perfect(begin, end))

    def _perfect(self, begin: int, end: int) -> list[bytes]:
        """The perfect subtrees over the range, the largest first."""
        nodes = []
        while begin < end:
            level = (end - begin).bit_length() - 1
            nodes.append(self._levels[level][begin >> level])
            begin += 1 << level
        return nodes


def _split(size: int) -> int:
    """The largest power of two smaller than ``size`` (RFC 6962, section 2.1); size is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def _fold(nodes: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees, the largest first; at least one."""
    return reduce(lambda right, left: node_hash(left, right), reversed(nodes))


def _require_hash(node: bytes) -> bytes:
    if len(node) != DIGEST_BYTES:
        raise LocalMisuseError(f"expected a hash of {DIGEST_BYTES} bytes, found {len(node)}; use leaf_hash(data)")
    return node
