"""SEAL's own file format, for the three objects that go in and out of it. SEAL 4.1 to 4.3: `serialization.h`,
`plaintext.cpp`, `ciphertext.cpp`, `randomgen.h`.

Everything that SEAL is given is laid out here, around numbers that were checked: no received byte decides what its
parser does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import zstandard

from fedsec_secure.codec import Buffer
from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.he.parameters import SEED_BYTES, BfvParameters
from fedsec_secure.numeric.lanes import Words

_MAGIC, _HEADER_BYTES, _VERSION = 0xA15E, 16, (4, 3)
_NONE, _ZSTD = 0, 2
_HEADER = struct.Struct("<HBBBBHQ")
"""Magic, header's size, major, minor, compression, reserved, size of all."""
_BLAKE2XB = 1


def headed(*parts: bytes) -> bytes:
    """An object as SEAL saves it, uncompressed."""
    size = _HEADER_BYTES + sum(map(len, parts))
    return b"".join((_HEADER.pack(_MAGIC, _HEADER_BYTES, *_VERSION, _NONE, 0, size), *parts))


@dataclass(frozen=True)
class SealBytes:
    """The layouts for one set of parameters; ``parms_id``: SEAL's hash of them, 32 bytes, from a ciphertext it made."""

    parameters: BfvParameters
    parms_id: bytes

    def plaintext(self, coefficients: Words) -> bytes:
        """uint64[N] below t as a Plaintext."""
        n = self._of(coefficients)
        array = self._array(coefficients.tobytes())
        return headed(bytes(32), struct.pack("<Qd", n, 1.0), array)

    def ciphertext(self, seed: bytes, c0: Words) -> bytes:
        """(c0, a) as a fresh Ciphertext whose second polynomial SEAL draws from ``seed``."""
        if len(seed) != SEED_BYTES:
            raise LocalMisuseError(f"a seed has {SEED_BYTES} bytes, found {len(seed)}")
        n = self._of(c0)
        members = struct.pack("<?QQQdQ", False, 2, n, 1, 1.0, 1)  # not in NTT form, 2 polynomials, 1 prime, scale 1
        return headed(self.parms_id, members, self._array(c0.tobytes()), headed(bytes([_BLAKE2XB]), seed))

    @property
    def _ciphertext_bytes(self) -> int:
        return 32 + 41 + _HEADER_BYTES + 8 + self.parameters.c0_bytes + _HEADER_BYTES + 1 + SEED_BYTES

    def split_ciphertext(self, data: Buffer) -> tuple[bytes, Buffer]:
        """(seed, c0 as N little-endian words) of a seeded Ciphertext that SEAL saved. LocalMisuseError otherwise."""
        members = members_of(data, self._ciphertext_bytes)
        at = 32 + 41 + _HEADER_BYTES + 8
        info = at + self.parameters.c0_bytes + _HEADER_BYTES
        if len(members) != self._ciphertext_bytes or members[:32] != self.parms_id or members[info] != _BLAKE2XB:
            raise LocalMisuseError("SEAL saved a ciphertext of another layout than 4.1 to 4.3 have")
        return bytes(members[info + 1 :]), members[at : at + self.parameters.c0_bytes]

    def coefficients(self, data: Buffer) -> Words:
        """uint64[N] of a Plaintext that SEAL saved, which leaves leading zeros out."""
        n = self.parameters.degree
        members = members_of(data, 32 + 16 + _HEADER_BYTES + 8 + self.parameters.c0_bytes)
        at = 32 + 16 + _HEADER_BYTES + 8
        count = int.from_bytes(members[at - 8 : at], "little")
        if count > n or len(members) != at + 8 * count:
            raise LocalMisuseError("SEAL saved a plaintext of another layout than 4.1 to 4.3 have")
        found: Words = np.zeros(n, dtype="<u8")
        found[:count] = np.frombuffer(members, dtype="<u8", offset=at)
        return found

    def _of(self, values: Words) -> int:
        if values.dtype != np.uint64 or values.shape != (self.parameters.degree,):
            raise LocalMisuseError(f"expected uint64[{self.parameters.degree}], found {values.dtype}{values.shape}")
        return self.parameters.degree

    def _array(self, data: bytes) -> bytes:
        return headed(struct.pack("<Q", len(data) // 8), data)


def members_of(data: Buffer, most: int) -> memoryview:
    """What follows the header of a saved object, decompressed: at most ``most`` bytes."""
    view = memoryview(data)
    magic, size, _, _, compression, _, whole = _HEADER.unpack(view[:_HEADER_BYTES])
    if (magic, size, whole) != (_MAGIC, _HEADER_BYTES, len(view)) or compression not in {_NONE, _ZSTD}:
        raise LocalMisuseError("SEAL saved an object of another layout than 4.1 to 4.3 have")
    members = view[_HEADER_BYTES:]
    if compression == _ZSTD:
        return memoryview(zstandard.ZstdDecompressor().decompress(members, max_output_size=most))
    return members
