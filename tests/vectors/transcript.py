"""One masked round with every random byte fixed, as JSON: `make_vectors.py` writes it, `test_vectors.py` compares."""

from __future__ import annotations

import hashlib
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.masking.parameters import RoundContext
from fedsec_secure.numeric import shamir
from fedsec_secure.secrets import SecretBytes
from tests.sim.network import SimNetwork, parameters_for

SITES = ["site-a", "site-b", "site-c", "site-d"]
WEIGHTS = {"site-a": 11, "site-b": 40, "site-c": 300, "site-d": 299}
DROPPED = "site-d"
THRESHOLD = 3
RINGS = ("2x32", "3x21", "4x16")
D, CLIP, WEIGHT_MAX = 23, 0.5, 300
PLAN, ADAPTER, RUN, ROUND, ATTEMPT = (
    hashlib.sha256(b"plan").digest(),
    hashlib.sha256(b"adapter").digest(),
    "run-1",
    1,
    2,
)


class Fixed:
    """Deterministic bytes in place of the operating system's, and a list of what was drawn."""

    def __init__(self, seed: str) -> None:
        self._seed, self._count = seed, count()
        self.secrets: list[bytes] = []
        self.coefficients: list[int] = []

    def bytes(self, length: int = 32) -> bytes:
        return hashlib.shake_256(f"{self._seed} {next(self._count)}".encode()).digest(length)

    def secret(self, length: int = 32) -> SecretBytes:
        self.secrets.append(self.bytes(length))
        return SecretBytes(self.secrets[-1])

    def below(self, bound: int) -> int:
        self.coefficients.append(int.from_bytes(self.bytes(48), "big") % bound)
        return self.coefficients[-1]


def updates() -> dict[str, np.ndarray]:
    """Values of every kind: zero, beyond the clip, at the clip, tiny, denormal, and random ones."""
    special = np.array([0.0, -0.0, 0.7, -0.7, 0.5, -0.5, 1e-7, -1e-7, 1e-40, 0.25], dtype=np.float32)
    rng = np.random.default_rng(5)
    return {s: np.concatenate([special, (rng.standard_normal(D - len(special)) / 5).astype("<f4")]) for s in SITES}


def transcript(ring: str) -> dict[str, Any]:
    """The round of one ring. site-d deals its shares and uploads nothing."""
    fixed, private = Fixed(f"fedsec vectors {ring}"), {}

    def make_key(party: str) -> SigningKey:
        private[party] = fixed.bytes()
        return SigningKey(Ed25519PrivateKey.from_private_bytes(private[party]))

    parameters = parameters_for(len(SITES), D, ring=ring, clip=CLIP, weight_max=WEIGHT_MAX, hidden=True)
    net = SimNetwork(updates(), parameters, THRESHOLD, make_key=make_key)
    net.context = RoundContext(PLAN, RUN, ROUND, ATTEMPT, net.group.roster.digest(), ADAPTER).digest()
    for name, site in net.sites.items():
        site.weight, site.coins = WEIGHTS[name], SecretBytes(fixed.bytes())
    net.sites[DROPPED].drops_at = "mask"
    below = SimpleNamespace(randbelow=fixed.below)
    with mock.patch.object(SecretBytes, "random", fixed.secret), mock.patch.object(shamir, "os_random", below):
        done = net.run()
    return {
        "ring": ring,
        "numbers": {"sites": len(SITES), "clip": CLIP, "d": D, "weight_max": WEIGHT_MAX, "hidden": True},
        "round": {"plan": PLAN.hex(), "run": RUN, "round": ROUND, "attempt": ATTEMPT, "adapter": ADAPTER.hex()},
        "threshold": THRESHOLD,
        "coordinator": private["coordinator"].hex(),
        "sites": {name: _site(net, i, name, private, fixed) for i, name in enumerate(SITES)},
        "requests": {f"{e} {s}": data.hex() for (e, s), data in sorted(net.asked.items()) if data},
        "sum": done.total.tobytes().hex(),
        "tag": done.tag,
    }


def _site(net: SimNetwork, index: int, name: str, private: dict[str, bytes], fixed: Fixed) -> dict[str, Any]:
    site, t = net.sites[name], THRESHOLD - 1
    stated, dealt = fixed.secrets[3 * index : 3 * index + 3], fixed.secrets[3 * len(SITES) + 2 * index :][:2]
    drawn = fixed.coefficients[2 * t * index : 2 * t * (index + 1)]
    return {
        "signing": private[name].hex(),
        "channel": stated[0].hex(),
        "mask": stated[1].hex(),
        "nonce": stated[2].hex(),
        "b": dealt[0].hex(),
        "rho": dealt[1].hex(),
        "coefficients": [[f"{c:x}" for c in drawn[:t]], [f"{c:x}" for c in drawn[t:]]],
        "update": site.update.astype("<f4").tobytes().hex(),
        "weight": site.weight,
        "coins": site.contribution().coins.reveal().hex(),
        "sent": {exchange: reply.hex() for exchange, reply in site.sent.items()},
    }
