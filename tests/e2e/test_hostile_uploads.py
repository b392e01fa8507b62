"""A site that uploads numbers which are no ciphertext is left out by name; the others' round goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsec.site import encrypted
from fedsec.site.end import claimed_context
from fedsec_secure.codec import head_length, seal_head, sha256
from fedsec_secure.errors import AbortError
from fedsec_secure.he.parameters import SEED_BYTES, STANDARD
from tests.e2e.encrypting import SITES, InProcess, opened
from tests.e2e.federation import Keys, make_plan

UPLOAD = {"he": ("encrypt", "encrypt"), "he-mask": ("mask", "masked")}
"""By mode: the exchange, and the kind of packet."""


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    monkeypatch.setattr(encrypted, "EncryptionWorkers", InProcess)


class Spoils:
    """A site that puts one number into its upload, and signs that."""

    def __init__(self, site, agent, key, mode: str, coefficient: int, value: int) -> None:
        self.site, self.agent, self.key, self.mode = site, agent, key, mode
        self.coefficient, self.value = coefficient, value

    def handle(self, name: str, body: bytes):
        reply = self.agent.handle(name, body)
        exchange, kind = UPLOAD[self.mode]
        if name != exchange:
            return reply
        packet = reply.read_bytes()
        cut = head_length(packet)
        words = np.frombuffer(packet[cut:], "<u8").copy()
        words[SEED_BYTES // 8 + self.coefficient] = self.value
        spoiled = words.tobytes()
        context = claimed_context(packet)
        head = seal_head(kind, self.site, context, len(spoiled), sha256(spoiled), self.key.sign)
        other = Path(f"{reply}.spoiled")
        other.write_bytes(head + spoiled)
        return other


def spoiled_run(folder, keys, mode: str, sites, value: int, coefficient: int = 0):
    def wrap(site, agent):
        return Spoils(site, agent, keys.sites[site], mode, coefficient, value) if site in sites else agent

    return opened(folder, keys, make_plan(keys, mode=mode, rounds=2), wrap=wrap)


@pytest.mark.parametrize("mode", UPLOAD)
@pytest.mark.parametrize(
    ("coefficient", "value"),
    [(0, STANDARD.modulus), (STANDARD.degree - 1, STANDARD.modulus), (7, (1 << 64) - 1), (7, 1 << 63)],
)
def test_a_number_outside_the_ring_costs_its_site_the_round_and_nobody_else(tmp_path, keys, mode, coefficient, value):
    with spoiled_run(tmp_path, keys, mode, {"site-c"}, value, coefficient) as federation:
        federation.run()
        rounds = [e["survivors"] for e in federation.events if e["event"] == "round"]
        refused = [e["sites"] for e in federation.events if e["event"] == "refused"]
    assert rounds == [["site-a", "site-b", "site-d", "site-e"]] * 2
    assert refused == [{"site-c": "a ciphertext has a coefficient that is no residue"}] * 2


@pytest.mark.parametrize("mode", UPLOAD)
def test_the_largest_residue_is_one(tmp_path, keys, mode):
    """The upload counts; that what it opens to is not what its site signed the tag of is for the sites to see."""
    with spoiled_run(tmp_path, keys, mode, {"site-c"}, STANDARD.modulus - 1) as federation:
        with pytest.raises(AbortError, match="0 sites attest one adapter"):
            federation.run()
        assert not [e for e in federation.events if e["event"] == "refused"]


@pytest.mark.parametrize("mode", UPLOAD)
def test_where_too_many_are_left_out_the_run_ends_and_says_so(tmp_path, keys, mode):
    with (
        spoiled_run(tmp_path, keys, mode, {"site-a", "site-b", "site-c"}, STANDARD.modulus) as federation,
        pytest.raises(AbortError, match="has 2 sites"),
    ):
        federation.run()
