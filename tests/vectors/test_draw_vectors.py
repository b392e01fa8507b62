"""The committed draws of groups: a stranger's code gives the same bytes, and the bad messages are refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedsec_secure import errors
from tests.vectors import stranger
from tests.vectors.draws import SIZES, Drawing, bad_draws, good_messages

HERE = Path(__file__).parent
DRAWS = json.loads((HERE / "draws.json").read_text(encoding="utf-8"))
BAD = json.loads((HERE / "draw_bad_messages.json").read_text(encoding="utf-8"))
SAYS = [says for *_, says in bad_draws()]


@cache
def seven() -> Drawing:
    return Drawing(7)


def public(private: str) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private)).public_key().public_bytes_raw()


@pytest.mark.parametrize("v", DRAWS, ids=[f"{len(v['sites'])} sites" for v in DRAWS])
def test_a_strangers_draw_is_the_same_bytes(v: dict[str, Any]):
    keys = {s: bytes.fromhex(site["signing"]) for s, site in v["sites"].items()}
    nonces = {s: bytes.fromhex(site["nonce"]) for s, site in v["sites"].items()}
    coordinator = bytes.fromhex(v["coordinator"])
    roster = stranger.roster_digest(public(v["coordinator"]), {s: public(k.hex()) for s, k in keys.items()})
    draw = stranger.draw_context(bytes.fromhex(v["round"]["plan"]), v["round"]["run"], roster)

    def sent(kind: str, context: bytes, bodies: dict[str, bytes]) -> dict[str, bytes]:
        packets = {s: stranger.packet(kind, s, context, body, keys[s]) for s, body in bodies.items()}
        assert {s: packet.hex() for s, packet in packets.items()} == {s: v["sites"][s][kind] for s in keys}
        return packets

    def asked(name: str, context: bytes, body: bytes) -> None:
        request = stranger.packet(f"{name}-request", "coordinator", context, body, coordinator)
        assert request.hex() == v["requests"][name]

    asked("commit", draw, stranger.text(v["round"]["run"]))
    commits = sent("commit", draw, {s: stranger.draw_commitment(s, draw, nonce) for s, nonce in nonces.items()})
    asked("reveal", draw, stranger.packets(commits))
    bound = stranger.opened(draw, commits)
    reveals = sent("reveal", bound, nonces)
    asked("draw", bound, stranger.packets(reveals))
    groups = stranger.groups_of(stranger.draw_order(bound, nonces), v["groups"])
    assert groups == v["drawn"]
    sent("draw", bound, dict.fromkeys(keys, stranger.groups_hash(groups)))


def test_the_draws_are_of_all_sizes():
    sizes = [sorted(len(group) for group in v["drawn"]) for v in DRAWS]
    assert sizes == [[3, 3], [3, 4], [3, 3, 4]]
    assert [len(v["sites"]) for v in DRAWS] == list(SIZES)


@pytest.mark.parametrize(
    ("case", "says"), list(zip(BAD, SAYS, strict=True)), ids=[f"{c['message']}: {c['wrong']}" for c in BAD]
)
def test_bad_messages_of_a_draw_are_refused_by_their_error(case, says):
    with pytest.raises(errors.FedsecError, match=says) as caught:
        seven().receive(case["message"], bytes.fromhex(case["bytes"]))
    assert type(caught.value).__name__ == case["error"]


def test_the_messages_that_the_bad_ones_were_made_from_are_accepted():
    for message, data in good_messages(seven()).items():
        seven().receive(message, data)
    assert {case["message"] for case in BAD} == set(good_messages(seven()))
