"""The verified sum: secret-key linear tags over F_p, p = 2^61 - 1, under a key that the sites share.

tau_i = <r, q_i> + a_i, where q_i are the encoded lanes of site i and r, a_i come from a key K that the coordinator does
not have. Tags travel masked like the vector, so the coordinator learns only their sum T. A site accepts the sum S if
T = <r, S> + sum of a_i over the survivors. Whoever knows S and T but not K, and hands out another S', has to guess
<r, S' - S>.

r has the form r[a, b] = u[a] * v[b] (rows by columns): for a fixed e != 0, <r, e> takes any one value with probability
at most 2/p (a row of e that is not zero stays so under v but with 1/p, and u then makes the total uniform). So no
keystream as long as the update is needed, and the work is one matrix product. Argument: docs/protocol.md, section 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import mul

import numpy as np
import numpy.typing as npt

from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.numeric.keystream import CHUNK_WORDS, Keystream
from fedsec_secure.numeric.lanes import Ints, Lanes, Words
from fedsec_secure.secrets import SecretBytes, derive

PRIME = (1 << 61) - 1
TAG_BYTES = 8
COLUMNS = 1 << 12
"""Words of a lane that share one u. Row sums are exact in float64: 2^12 products of a 25-bit lane and a 16-bit limb."""
_EXACT_BITS = 25
_LIMB_BITS = 16
_LIMBS = 4
_Sums = npt.NDArray[np.float64]


def field_element(secret: SecretBytes, label: str, *parts: bytes) -> int:
    """HKDF to 32 bytes, big-endian, modulo p: uniform but for 2^-195."""
    return int.from_bytes(derive(secret, label, *parts).reveal(), "big") % PRIME


def tag_key(seeds: Iterable[SecretBytes], bound: bytes) -> SecretBytes:
    """K = HKDF(all rho of U2, in order of their dealers; bound)."""
    return derive(SecretBytes(b"".join(seed.reveal() for seed in seeds)), "fedsec v1 tag key", bound)


def pads(key: SecretBytes, sites: Iterable[SiteId]) -> int:
    """Sum of a_i = PRF(K, i) modulo p. Without them, a scaled sum would fit the tag scaled by as much."""
    return weighted_pads(key, dict.fromkeys(sites, 1))


def weighted_pads(key: SecretBytes, weights: Mapping[SiteId, int]) -> int:
    """Sum of w_i a_i modulo p, where whoever sums multiplies by w_i."""
    return sum(w * field_element(key, "fedsec v1 tag pad", site.encode()) for site, w in weights.items()) % PRIME


class LinearTag:
    """<r, q> modulo p of lanes that are fed front to back, in the chunks of the vector.

    Work: 4 multiplications a lane; memory: O(chunk).
    """

    def __init__(self, key: SecretBytes, lanes: Lanes) -> None:
        columns: Words = np.empty(COLUMNS, dtype="<u8")
        Keystream(derive(key, "fedsec v1 tag columns")).read_into(columns)
        columns &= np.uint64(PRIME)  # 61 bits; p itself counts as 0
        limbs = columns.view("<u2").reshape(COLUMNS, _LIMBS)
        self._columns: _Sums = np.ascontiguousarray(limbs.T, dtype=np.float64)
        self._rows = [Keystream(derive(key, "fedsec v1 tag rows", bytes([lane]))) for lane in range(lanes.count)]
        self._wide = lanes.bits > _EXACT_BITS
        self._values: _Sums = np.empty(CHUNK_WORDS, dtype=np.float64)
        self._total = 0
        self._ended = False

    def add(self, planes: Sequence[Ints]) -> None:
        """The next words' lanes, int32[n] each; n is a multiple of `COLUMNS` but for the last."""
        if self._ended or len(planes) != len(self._rows):
            raise LocalMisuseError("a tag was fed lanes after its last chunk, or of another ring")
        self._ended = len(planes[0]) % COLUMNS != 0
        for stream, plane in zip(self._rows, planes, strict=True):
            sums = self._row_sums(plane)
            drawn: Words = np.empty(len(sums), dtype="<u8")
            stream.read_into(drawn)
            drawn &= np.uint64(PRIME)
            self._total = (self._total + sum(map(mul, drawn.tolist(), sums))) % PRIME

    @property
    def value(self) -> int:
        """The tag of what was fed so far, in [0, p)."""
        return self._total

    def _row_sums(self, plane: Ints) -> list[int]:
        """Sum over the columns of v[b] * plane[a, b], exact, a number a row."""
        if not self._wide:
            return self._exact(plane)
        low = self._exact(plane & np.int32(0xFFFF))
        return [(h << 16) + part for h, part in zip(self._exact(plane >> np.int32(16)), low, strict=True)]

    def _exact(self, plane: Ints) -> list[int]:
        rows = -(-len(plane) // COLUMNS)
        values = self._values[: rows * COLUMNS]
        values[: len(plane)] = plane
        values[len(plane) :] = 0
        sums = (self._columns @ values.reshape(rows, COLUMNS).T).astype(np.int64).tolist()
        return [sum(limb << (_LIMB_BITS * i) for i, limb in enumerate(row)) for row in zip(*sums, strict=True)]
