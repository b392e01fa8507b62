"""A second implementation of the masked round, from docs/protocol.md alone.

It imports nothing of fedsec: hashlib, hmac, struct, numpy and the primitives of `cryptography`. It is written to be
read beside the page, one line a formula, and is as slow as that makes it.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

P = 2**61 - 1
SHAMIR = 2**256 + 297


# ---- section 1: notation


def H(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def u(bits: int, value: int) -> bytes:
    return value.to_bytes(bits // 8, "big")


def text(s: str) -> bytes:
    return u(16, len(s.encode())) + s.encode()


def blob(x: bytes) -> bytes:
    return u(32, len(x)) + x


def hkdf(key: bytes, label: str, *parts: bytes) -> bytes:
    info = text(label) + b"".join(blob(p) for p in parts)
    prk = hmac.new(bytes(32), key, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def prg(key: bytes, count: int) -> list[int]:
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
    return list(struct.unpack(f"<{count}Q", stream))


def x25519(secret: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


def x25519_public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


# ---- section 2: packets


def packet(kind: str, sender: str, context: bytes, body: bytes, key: bytes) -> bytes:
    header = text(kind) + text(sender) + context + u(64, len(body)) + H(body)
    signature = Ed25519PrivateKey.from_private_bytes(key).sign(b"fedsec packet v1\x00" + header)
    return bytes.fromhex("46535001") + u(16, len(header)) + header + signature + body


def head(whole: bytes, body: bytes) -> bytes:
    return whole[: len(whole) - len(body)]


def packets(by_sender: Mapping[str, bytes]) -> bytes:
    return u(16, len(by_sender)) + b"".join(text(s) + blob(by_sender[s]) for s in sorted(by_sender))


def set_hash(label: str, by_sender: Mapping[str, bytes]) -> bytes:
    return H(text(f"fedsec set v1 {label}"), packets(by_sender))


# ---- section 3: contexts


def roster_digest(coordinator: bytes, sites: Mapping[str, bytes]) -> bytes:
    listed = b"".join(text(s) + sites[s] for s in sorted(sites))
    return H(text("fedsec roster v1"), coordinator, u(16, len(sites)), listed)


def round_context(plan: bytes, run: str, number: int, attempt: int, roster: bytes, adapter: bytes) -> bytes:
    where = text(run) + u(32, number) + u(16, attempt)
    return H(text("fedsec round v1"), u(16, 1), plan, where, roster, adapter)


def bound_context(context: bytes, u1: bytes, u2: bytes) -> bytes:
    return H(text("fedsec sets v1"), context, u1, u2)


# ---- section 4: the site


@dataclass
class Secrets:
    """Everything random of one site in one attempt."""

    signing: bytes
    channel: bytes
    mask: bytes
    nonce: bytes
    b: bytes
    rho: bytes
    coefficients: tuple[list[int], list[int]]
    """Of b's polynomial and of the mask key's, from x^1 on."""


def statement(site: str, s: Secrets, context: bytes, update: np.ndarray) -> bytes:
    commitment = H(text("fedsec commitment v1"), text(site), context, s.nonce, H(update.astype("<f4").tobytes()))
    return packet("statement", site, context, x25519_public(s.channel) + x25519_public(s.mask) + commitment, s.signing)


def shamir_share(secret: bytes, coefficients: Sequence[int], x: int) -> bytes:
    value = int.from_bytes(secret, "big") + sum(c * x ** (i + 1) for i, c in enumerate(coefficients))
    return (value % SHAMIR).to_bytes(33, "big")


def shamir_secret(shares: Mapping[int, bytes]) -> bytes:
    total = 0
    for i, share in shares.items():
        weight = 1
        for j in shares:
            if j != i:
                weight = weight * j * pow(j - i, -1, SHAMIR) % SHAMIR
        total += weight * int.from_bytes(share, "big")
    return (total % SHAMIR).to_bytes(32, "big")


def share_hash(kind: int, dealer: str, recipient: str, context: bytes, share: bytes) -> bytes:
    return H(text("fedsec share v1"), u(8, kind), text(dealer), text(recipient), context, share)


def box(secret: bytes, public: bytes, dealer: str, recipient: str, where: bytes) -> tuple[ChaCha20Poly1305, bytes]:
    key = hkdf(x25519(secret, public), "fedsec v1 share box", where, dealer.encode(), recipient.encode())
    return ChaCha20Poly1305(key), text("fedsec share box v1") + text(dealer) + text(recipient) + where


def share_reply(
    site: str, s: Secrets, context: bytes, statements: Mapping[str, bytes], roster: Sequence[str]
) -> tuple[bytes, bytes, list[bytes]]:
    """(reply, dealing, sealed triples)."""
    u1 = set_hash("U1", statements)
    where, promises, sealed = H(context, u1), b"", []
    for peer in sorted(statements):
        x = sorted(roster).index(peer) + 1
        shares = [shamir_share(k, c, x) for k, c in zip((s.b, s.mask), s.coefficients, strict=True)]
        cipher, aad = box(s.channel, statements[peer][-96:-64], site, peer, where)
        sealed.append(cipher.encrypt(bytes(12), shares[0] + shares[1] + s.rho, aad))
        hashes = [share_hash(kind, site, peer, context, share) for kind, share in zip((1, 2), shares, strict=True)]
        promises += text(peer) + hashes[0] + hashes[1] + H(sealed[-1])
    b_hash = H(text("fedsec self seed v1"), text(site), context, s.b)
    rho_hash = H(text("fedsec tag seed v1"), text(site), context, s.rho)
    body = u1 + b_hash + rho_hash + u(16, len(statements)) + promises
    dealing = packet("dealing", site, context, body, s.signing)
    return blob(dealing) + u(16, len(sealed)) + b"".join(sealed), dealing, sealed


@dataclass(frozen=True)
class Numbers:
    """Section 5, for one sum."""

    lanes: int
    bits: int
    sites: int
    clip: float
    d: int
    weight_max: int
    hidden: bool

    @property
    def largest(self) -> int:
        return min((2 ** (self.bits - 1) - 1) // self.sites, 2**23)

    @property
    def scale(self) -> float:
        return float(2.0 ** np.floor(np.log2(self.largest / self.clip)))

    @property
    def limb_bits(self) -> int:
        return int(np.floor(np.log2((2 ** (self.bits - 1) - 1) // self.sites + 1)))

    @property
    def limbs(self) -> int:
        return -(-self.weight_max.bit_length() // self.limb_bits) if self.hidden else 0

    @property
    def w(self) -> int:
        return -(-(self.limbs + self.d) // self.lanes)


def encode(n: Numbers, update: np.ndarray, weight: int, coins: bytes) -> list[list[int]]:
    """The lanes, planar: [lane][word]."""
    R = 30 - n.largest.bit_length()
    factor = np.float32(weight / n.weight_max) * np.float32(n.scale * 2.0**R)
    elements = [(weight >> (n.limb_bits * i)) & (2**n.limb_bits - 1) for i in range(n.limbs)]
    clipped = np.clip(update.astype(np.float32), np.float32(-n.clip), np.float32(n.clip))
    drawn = []
    for lane in range(n.lanes):
        stream = prg(hkdf(coins, "fedsec v1 rounding lane", u(8, lane)), (n.w + 1) // 2)
        drawn += [half for word in stream for half in (word & 0xFFFFFFFF, word >> 32)][: n.w]
    for x in clipped:
        r = drawn[len(elements)] >> (32 - R)
        elements.append((int(np.rint(x * factor)) + r) >> R)
    elements += [0] * (n.lanes * n.w - len(elements))
    return [elements[lane * n.w : (lane + 1) * n.w] for lane in range(n.lanes)]


def pack(n: Numbers, lanes: list[list[int]]) -> list[int]:
    return [sum(lanes[i][j] << (n.bits * i) for i in range(n.lanes)) % 2**64 for j in range(n.w)]


# ---- section 6: the verified sum


def tag_key(rhos: Mapping[str, bytes], bound: bytes) -> bytes:
    return hkdf(b"".join(rhos[s] for s in sorted(rhos)), "fedsec v1 tag key", bound)


def inner(n: Numbers, key: bytes, lanes: list[list[int]]) -> int:
    v = [word % 2**61 for word in prg(hkdf(key, "fedsec v1 tag columns"), 4096)]
    total = 0
    for index, lane in enumerate(lanes):
        rows = [w % 2**61 for w in prg(hkdf(key, "fedsec v1 tag rows", u(8, index)), -(-n.w // 4096))]
        total += sum(rows[j // 4096] * v[j % 4096] * q for j, q in enumerate(lane))
    return total % P


def pad(key: bytes, site: str) -> int:
    return int.from_bytes(hkdf(key, "fedsec v1 tag pad", site.encode()), "big") % P


# ---- section 4 again: masks, upload, the rest


def mask(n: Numbers, secret: bytes, whose: str, *parts: bytes) -> tuple[list[int], int]:
    """(vector, tag) of one mask."""
    vector = prg(hkdf(secret, f"fedsec v1 {whose} mask vector", *parts), n.w)
    return vector, int.from_bytes(hkdf(secret, f"fedsec v1 {whose} mask tag", *parts), "big") % P


def self_mask(n: Numbers, b: bytes, site: str, bound: bytes) -> tuple[list[int], int]:
    return mask(n, b, "self", bound, site.encode())


def pair_mask(n: Numbers, secret: bytes, public: bytes, one: str, two: str, bound: bytes) -> tuple[list[int], int]:
    low, high = sorted((one, two))
    return mask(n, x25519(secret, public), "pair", bound, low.encode(), high.encode())


def upload_body(
    n: Numbers, site: str, s: Secrets, lanes: list[list[int]], key: bytes, publics: Mapping[str, bytes], bound: bytes
) -> bytes:
    """``publics``: mask keys of U2."""
    y, z = pack(n, lanes), inner(n, key, lanes) + pad(key, site)
    terms = [(1, self_mask(n, s.b, site, bound))]
    terms += [(1 if site < j else -1, pair_mask(n, s.mask, publics[j], site, j, bound)) for j in publics if j != site]
    for sign, (vector, tag) in terms:
        y = [(a + sign * m) % 2**64 for a, m in zip(y, vector, strict=True)]
        z += sign * tag
    return struct.pack(f"<{n.w + 1}Q", *y, z % P)


def unmask_body(site: str, u3: Sequence[str], shares: Mapping[str, tuple[bytes, bytes]]) -> bytes:
    """``shares``: dealer of U2 -> (share of b, share of mask key) that this site holds."""
    out = u(16, len(shares))
    for peer in sorted(shares):
        kind = 1 if peer in u3 else 2
        out += text(peer) + u(8, kind) + shares[peer][kind - 1]
    return out


# ---- section 4, rounds in groups: the draw


def draw_context(plan: bytes, run: str, roster: bytes) -> bytes:
    return H(text("fedsec draw v1"), plan, text(run), roster)


def draw_commitment(site: str, draw: bytes, nonce: bytes) -> bytes:
    return H(text("fedsec draw commitment v1"), text(site), draw, nonce)


def opened(draw: bytes, commits: Mapping[str, bytes]) -> bytes:
    return H(text("fedsec draw set v1"), draw, set_hash("commitments", commits))


def draw_order(bound: bytes, nonces: Mapping[str, bytes]) -> list[str]:
    seed = H(text("fedsec draw seed v1"), bound, *(text(s) + nonces[s] for s in sorted(nonces)))
    order, k = sorted(nonces), 0
    for i in range(len(order) - 1, 0, -1):
        while True:
            word = int.from_bytes(H(text("fedsec draw word v1"), seed, u(32, k))[:8], "big")
            k += 1
            if word < 2**64 - 2**64 % (i + 1):
                break
        j = word % (i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def groups_of(order: Sequence[str], G: int) -> list[list[str]]:
    return [sorted(order[g::G]) for g in range(G)]


def groups_hash(groups: Sequence[Sequence[str]]) -> bytes:
    listed = b"".join(u(16, len(group)) + b"".join(map(text, group)) for group in groups)
    return H(text("fedsec draw groups v1"), u(16, len(groups)), listed)
