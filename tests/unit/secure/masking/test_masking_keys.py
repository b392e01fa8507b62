"""Key agreement against RFC 7748, and every derivation bound to everything that it names."""

from __future__ import annotations

import itertools

import pytest

from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity import agreement
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking import keys
from fedsec_secure.masking.messages import SEALED_BYTES, bound_context, set_digest
from fedsec_secure.masking.parameters import RoundContext
from fedsec_secure.secrets import SecretBytes

# RFC 7748, section 6.1.
ALICE = SecretBytes(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
BOB = SecretBytes(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
CONTEXT = bytes(range(32))


def test_rfc_7748_key_agreement():
    assert agreement.x25519_public(ALICE).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert agreement.x25519_public(BOB).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    for secret, peer in ((ALICE, BOB), (BOB, ALICE)):
        assert agreement.agree(secret, agreement.x25519_public(peer), "peer").reveal().hex() == SHARED


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_public_keys_of_small_order_are_refused(point):
    with pytest.raises(PeerViolationError, match="small order"):
        agreement.agree(ALICE, point, "site-b")


def test_both_ends_of_a_pair_have_the_same_mask_and_no_other_pair_has():
    a, b = agreement.x25519_public(ALICE), agreement.x25519_public(BOB)
    one = keys.pair_mask(ALICE, b, "site-a", "site-b", CONTEXT)
    assert one == keys.pair_mask(BOB, a, "site-b", "site-a", CONTEXT)
    others = [
        keys.pair_mask(ALICE, b, "site-a", "site-c", CONTEXT),
        keys.pair_mask(ALICE, b, "site-a", "site-b", bytes(32)),
        keys.self_mask(one.vector, "site-a", CONTEXT),
        keys.self_mask(one.vector, "site-b", CONTEXT),
    ]
    assert len({m.vector.reveal() for m in [one, *others]}) == 5
    assert len({m.tag for m in [one, *others]}) == 5
    assert all(str(m.tag) not in repr(m) and m.vector.reveal().hex() not in repr(m) for m in [one, *others])


def test_every_bit_of_a_seed_and_of_a_mask_key_counts():
    """No seed is folded into a smaller one: 256 flipped bits give 256 other masks, keystream and tag alike.

    (X25519 clamps five bits of a private key, RFC 7748 section 5: those may not change anything.)
    """
    site, peer = SiteId("a"), SiteId("b")
    public = agreement.x25519_public(BOB)
    clamped = {0, 1, 2, 254, 255}
    for make, unused in (
        (lambda secret: keys.self_mask(secret, site, CONTEXT), set()),
        (lambda secret: keys.pair_mask(secret, public, site, peer, CONTEXT), clamped),
    ):
        flipped = {bit: make(flip_bit(ALICE, bit)) for bit in range(256) if bit not in unused}
        masks = [make(ALICE), *flipped.values()]
        assert len({m.vector.reveal() for m in masks}) == len({m.tag for m in masks}) == 257 - len(unused)


def flip_bit(secret: SecretBytes, bit: int) -> SecretBytes:
    return SecretBytes((int.from_bytes(secret.reveal(), "little") ^ 1 << bit).to_bytes(32, "little"))


def test_shares_open_for_their_recipient_context_and_direction_only():
    shared = agreement.agree(ALICE, agreement.x25519_public(BOB), "site-b")
    dealt = keys.Dealt(bytes(33), b"\x01" + bytes(32), SecretBytes(bytes(31) + b"r"))
    box = keys.seal_dealt(shared, dealt, "site-a", "site-b", CONTEXT)
    assert len(box) == SEALED_BYTES
    assert keys.open_dealt(shared, box, "site-a", "site-b", CONTEXT) == dealt
    wrong = [
        (shared, box, "site-b", "site-a", CONTEXT),
        (shared, box, "site-a", "site-c", CONTEXT),
        (shared, box, "site-a", "site-b", bytes(32)),
        (SecretBytes(bytes(31) + b"x"), box, "site-a", "site-b", CONTEXT),
        (shared, box[:-1] + bytes([box[-1] ^ 1]), "site-a", "site-b", CONTEXT),
        (shared, box[:-1], "site-a", "site-b", CONTEXT),
    ]
    for arguments in wrong:
        with pytest.raises(PeerViolationError, match="do not authenticate"):
            keys.open_dealt(*arguments)


def test_hashes_of_shares_and_seeds_bind_everything():
    share = bytes(33)
    variants = [
        keys.share_hash(k, s, d, r, c)
        for k, s, d, r, c in itertools.product((1, 2), (share, b"\x01" + share[1:]), "ab", "cd", (CONTEXT, bytes(32)))
    ]
    seeds = [keys.seed_hash(s, site, c) for s, site, c in itertools.product((ALICE, BOB), "ab", (CONTEXT, bytes(32)))]
    assert len(set(variants)) == 32
    assert len(set(seeds)) == 8


def test_every_part_of_a_round_changes_its_context():
    base = RoundContext(bytes(32), "run-1", 1, 0, bytes(32), bytes(32))
    one = b"\x01" * 32
    others = [
        RoundContext(one, "run-1", 1, 0, bytes(32), bytes(32)),
        RoundContext(bytes(32), "run-2", 1, 0, bytes(32), bytes(32)),
        RoundContext(bytes(32), "run-1", 2, 0, bytes(32), bytes(32)),
        RoundContext(bytes(32), "run-1", 1, 1, bytes(32), bytes(32)),
        RoundContext(bytes(32), "run-1", 1, 0, one, bytes(32)),
        RoundContext(bytes(32), "run-1", 1, 0, bytes(32), one),
    ]
    assert len({c.digest() for c in [base, *others]}) == 7


def test_split_views_give_other_contexts():
    u1 = {"a": b"1", "b": b"2"}
    bound = bound_context(CONTEXT, set_digest("U1", u1), set_digest("U2", u1))
    assert set_digest("U1", u1) != set_digest("U2", u1)
    assert bound != bound_context(CONTEXT, set_digest("U1", {"a": b"1"}), set_digest("U2", u1))
    assert bound != bound_context(CONTEXT, set_digest("U1", u1), set_digest("U2", {"a": b"1", "b": b"3"}))
