"""The committed vectors: made again the same, a stranger's code gives the same bytes, the bad ones are refused."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedsec.wire import VerdictRequest
from fedsec_secure import errors
from fedsec_secure.codec import Writer
from fedsec_secure.errors import CodecError
from tests.vectors import stranger
from tests.vectors.bad import bad_messages, bad_tags, context_of, good_message, keys_of, read
from tests.vectors.make_vectors import files
from tests.vectors.transcript import DROPPED, RINGS, SITES

HERE = Path(__file__).parent
EVERY_RING = pytest.mark.parametrize("ring", RINGS)


@cache
def load(name: str) -> Any:
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def test_vectors_are_those_that_the_code_makes():
    for name, content in files().items():
        assert (HERE / name).read_text(encoding="utf-8") == content, "run: python -m tests.vectors.make_vectors"


# ---- a stranger's round


class Round:
    """A vector's round as the second implementation computes it."""

    def __init__(self, ring: str) -> None:
        v = self.v = load(f"round_{ring}.json")
        self.sent = {s: {e: bytes.fromhex(x) for e, x in v["sites"][s]["sent"].items()} for s in SITES}
        self.secrets = {s: self._secrets(v["sites"][s]) for s in SITES}
        self.coordinator = bytes.fromhex(v["coordinator"])
        publics = {s: self._public(k.signing) for s, k in self.secrets.items()}
        roster = stranger.roster_digest(self._public(self.coordinator), publics)
        r = v["round"]
        plan, adapter = bytes.fromhex(r["plan"]), bytes.fromhex(r["adapter"])
        self.context = stranger.round_context(plan, r["run"], r["round"], r["attempt"], roster, adapter)
        lanes, bits = map(int, ring.split("x"))
        self.numbers = stranger.Numbers(lanes, bits, **v["numbers"])
        self.updates = {s: np.frombuffer(bytes.fromhex(v["sites"][s]["update"]), "<f4") for s in SITES}
        self.statements = {s: stranger.statement(s, self.secrets[s], self.context, self.updates[s]) for s in SITES}
        dealt = {s: stranger.share_reply(s, self.secrets[s], self.context, self.statements, SITES) for s in SITES}
        self.replies = {s: d[0] for s, d in dealt.items()}
        self.dealings = {s: d[1] for s, d in dealt.items()}
        self.sealed = {s: d[2] for s, d in dealt.items()}
        u1, u2 = stranger.set_hash("U1", self.statements), stranger.set_hash("U2", self.dealings)
        self.bound = stranger.bound_context(self.context, u1, u2)
        self.key = stranger.tag_key({s: k.rho for s, k in self.secrets.items()}, self.bound)
        self.u3 = [s for s in SITES if s != DROPPED]
        self.lanes = {s: self._lanes(s) for s in self.u3}
        self.publics = {s: stranger.x25519_public(k.mask) for s, k in self.secrets.items()}
        self.uploads = {s: self._upload(s) for s in self.u3}
        self.heads = {s: stranger.head(self.uploads[s], self._body(s)) for s in self.u3}

    @staticmethod
    def _secrets(site: dict[str, Any]) -> stranger.Secrets:
        plain = {n: bytes.fromhex(site[n]) for n in ("signing", "channel", "mask", "nonce", "b", "rho")}
        b, key = ([int(c, 16) for c in line] for line in site["coefficients"])
        return stranger.Secrets(**plain, coefficients=(b, key))

    @staticmethod
    def _public(private: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    def _lanes(self, site: str) -> list[list[int]]:
        v = self.v["sites"][site]
        return stranger.encode(self.numbers, self.updates[site], v["weight"], bytes.fromhex(v["coins"]))

    def _body(self, site: str) -> bytes:
        return stranger.upload_body(
            self.numbers, site, self.secrets[site], self.lanes[site], self.key, self.publics, self.bound
        )

    def _upload(self, site: str) -> bytes:
        return stranger.packet("masked", site, self.bound, self._body(site), self.secrets[site].signing)

    def request(self, name: str, context: bytes, body: bytes) -> bytes:
        return stranger.packet(f"{name}-request", "coordinator", context, body, self.coordinator)

    def asked(self, name: str, site: str) -> bytes:
        return bytes.fromhex(self.v["requests"][f"{name} {site}"])


@cache
def the_round(ring: str) -> Round:
    return Round(ring)


@EVERY_RING
def test_a_strangers_statements_dealings_and_uploads_are_the_same_bytes(ring):
    r = the_round(ring)
    for site in SITES:
        assert r.statements[site] == r.sent[site]["train"]
        assert r.replies[site] == r.sent[site]["share"]
    for site in r.u3:
        assert r.uploads[site] == r.sent[site]["mask"]
    assert "mask" not in r.sent[DROPPED]


@EVERY_RING
def test_a_strangers_requests_confirmations_and_reveals_are_the_same_bytes(ring):
    r = the_round(ring)
    confirmed = stranger.set_hash("U3", r.heads)
    confirmations = {s: stranger.packet("confirm", s, r.bound, confirmed, r.secrets[s].signing) for s in r.u3}
    for site in SITES:
        assert r.asked("share", site) == r.request("share", r.context, stranger.packets(r.statements))
        mine = [stranger.text(d) + stranger.blob(r.dealings[d]) + r.sealed[d][SITES.index(site)] for d in SITES]
        assert r.asked("mask", site) == r.request("mask", r.context, stranger.u(16, len(mine)) + b"".join(mine))
    for site in r.u3:
        assert r.asked("confirm", site) == r.request("confirm", r.bound, stranger.packets(r.heads))
        assert confirmations[site] == r.sent[site]["confirm"]
        assert r.asked("unmask", site) == r.request("unmask", r.bound, stranger.packets(confirmations))
        x = SITES.index(site) + 1
        held = {
            d: tuple(
                stranger.shamir_share(secret, line, x)
                for secret, line in zip((k.b, k.mask), k.coefficients, strict=True)
            )
            for d, k in r.secrets.items()
        }
        body = stranger.unmask_body(site, r.u3, held)
        assert stranger.packet("unmask", site, r.bound, body, r.secrets[site].signing) == r.sent[site]["unmask"]


@EVERY_RING
def test_a_strangers_sum_and_tag_are_the_decoded_ones_and_fit_each_other(ring):
    """From the uploads and the opened secrets alone, as the coordinator has them."""
    r, n = the_round(ring), the_round(ring).numbers
    total, tag = [0] * n.w, 0
    for site in r.u3:
        *y, z = struct.unpack(f"<{n.w + 1}Q", r.uploads[site][len(r.heads[site]) :])
        masks = [(1, stranger.self_mask(n, r.secrets[site].b, site, r.bound))]
        pair = stranger.pair_mask(n, r.secrets[DROPPED].mask, r.publics[site], DROPPED, site, r.bound)
        masks.append((1 if site < DROPPED else -1, pair))
        for sign, (vector, element) in masks:
            y, z = [(a - sign * m) % 2**64 for a, m in zip(y, vector, strict=True)], z - sign * element
        total, tag = [(a + b) % 2**64 for a, b in zip(total, y, strict=True)], (tag + z) % stranger.P
    assert struct.pack(f"<{n.w}Q", *total).hex() == r.v["sum"]
    assert tag == r.v["tag"]
    lanes = [[sum(r.lanes[s][i][j] for s in r.u3) for j in range(n.w)] for i in range(n.lanes)]
    assert stranger.pack(n, lanes) == total
    pads = sum(stranger.pad(r.key, s) for s in r.u3)
    assert (stranger.inner(n, r.key, lanes) + pads) % stranger.P == tag
    assert sum(lanes[0][i] << (n.limb_bits * i) for i in range(n.limbs)) == 11 + 40 + 300


@EVERY_RING
def test_a_stranger_recovers_the_secrets_from_the_revealed_shares(ring):
    r = the_round(ring)
    for dealer, kind in ((d, 2 if d == DROPPED else 1) for d in SITES):
        shares = {}
        for site in r.u3:
            body = r.sent[site]["unmask"]
            at = body.index(stranger.text(dealer) + stranger.u(8, kind), len(body) - 4 * (2 + 6 + 1 + 33) - 2)
            shares[SITES.index(site) + 1] = body[at + 9 : at + 42]
        due = r.secrets[dealer].mask if dealer == DROPPED else r.secrets[dealer].b
        assert stranger.shamir_secret(shares) == due


# ---- what must be refused

BAD = load("round_bad_messages.json")


@pytest.mark.parametrize("case", BAD, ids=[f"{c['message']}: {c['wrong']}" for c in BAD])
def test_bad_messages_are_refused_by_their_error(case):
    good = load("round_3x21.json")
    message, data = case["message"], bytes.fromhex(case["bytes"])
    context = bytes(32) if message == "share" else context_of(good, message)
    with pytest.raises(getattr(errors, case["error"])) as caught:
        read(message, data, keys_of(good, message), context)
    assert type(caught.value).__name__ == case["error"]


def test_the_messages_that_the_bad_ones_were_made_from_are_accepted():
    good = load("round_3x21.json")
    for message in sorted({c["message"] for c in bad_messages(good)} - {"share"}):
        read(message, good_message(good, message), keys_of(good, message), context_of(good, message))


@pytest.mark.parametrize("tag", bad_tags())
def test_a_tag_that_is_no_field_element_is_refused(tag):
    with pytest.raises(CodecError):
        VerdictRequest.decode(Writer().uint(0, 2).uint(tag, 8).done())
