"""What the coordinator has between rounds: the adapter, or where sums are encrypted its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsec.training.adapter import AdapterState
from fedsec.wire import CatchUp, EncryptedStart
from fedsec_secure.codec import DIGEST_BYTES, Reader, Writer
from fedsec_secure.identity.roster import SiteId

Shapes = Mapping[str, tuple[int, ...]]
_LARGEST = (1 << 32) - 1


@dataclass(frozen=True)
class EncryptedState:
    """A state that enough sites attest and the coordinator does not have: its digest, and its names and shapes.

    ``sums``: rounds' encrypted sums, for sites that were away; ``behind``: for each of those the first round whose sum
    it may lack. Memory: 4 bytes a parameter and round that any site lacks.
    """

    value: bytes
    shapes: Shapes
    sums: Mapping[int, CatchUp] = field(repr=False)
    behind: Mapping[SiteId, int]

    def digest(self) -> bytes:
        """32 bytes."""
        return self.value

    def start_of(self, site: SiteId) -> EncryptedStart:
        """What a site needs to begin from here."""
        first = self.behind.get(site)
        missed = {} if first is None else {n: s for n, s in self.sums.items() if n >= first}
        return EncryptedStart(self.value, missed)

    def to_bytes(self) -> bytes:
        """For the journal; without the shapes, which follow from the plan."""
        out = Writer().blob(EncryptedStart(self.value, self.sums).encode()).uint(len(self.behind), 2)
        for site in sorted(self.behind):
            out.text(site).uint(self.behind[site], 4)
        return out.done()

    @classmethod
    def from_bytes(cls, data: bytes, shapes: Shapes) -> EncryptedState:
        """Inverse of :meth:`to_bytes`."""
        r = Reader(data, "journalled state")
        start = EncryptedStart.decode(r.view(most=_LARGEST))
        behind = {SiteId(r.text()): r.uint(4) for _ in range(r.uint(2))}
        r.done()
        assert len(start.digest) == DIGEST_BYTES
        return cls(start.digest, shapes, start.missed, behind)


State = AdapterState | EncryptedState
