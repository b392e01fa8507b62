"""Groups drawn by commit and reveal: nobody chooses, every order has the same chance, and what is wrong is refused."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsec_secure.codec import seal
from fedsec_secure.errors import ConfigError, FedsecError, PeerViolationError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import COORDINATOR, Roster, SiteId
from fedsec_secure.masking.coordinator_draw import Draw
from fedsec_secure.masking.draw import (
    commitment,
    deal,
    draw_context,
    drawn_groups,
    group_roster,
    groups_digest,
    opened_context,
    shuffled,
)
from fedsec_secure.masking.messages import encode_packets
from fedsec_secure.masking.parameters import Cohort
from fedsec_secure.masking.site_draw import SiteCommitted, SiteDrawn, SiteOpened

NAMES = tuple(SiteId(f"site-{c}") for c in "abcdefg")


@dataclass
class Party:
    """Seven sites and a coordinator who carries their messages."""

    run: str = "run-1"
    keys: dict[SiteId, SigningKey] = field(default_factory=lambda: {s: SigningKey.generate() for s in NAMES})
    coordinator: SigningKey = field(default_factory=SigningKey.generate)

    def __post_init__(self) -> None:
        self.roster = Roster(self.coordinator.public, {s: k.public for s, k in self.keys.items()})
        self.cohort = Cohort(self.roster, 3)
        self.context = draw_context(bytes(32), self.run, self.roster.digest())
        self.states = {s: SiteCommitted.begin(s, self.context, k.sign) for s, k in self.keys.items()}
        self.draw = Draw(self.roster, self.context, 2, self.run, self.coordinator.sign)
        self.commitments = {s: state.packet for s, state in self.states.items()}

    def request(self, kind: str, packets, context=None) -> bytes:
        context = context or self.context
        return seal(f"{kind}-request", COORDINATOR, context, encode_packets(packets), self.coordinator.sign)

    def open(self, site, commitments=None) -> SiteOpened:
        request = self.request("reveal", self.commitments if commitments is None else commitments)
        return SiteOpened.enter(self.states[site], request, self.cohort, self.keys[site].sign)

    def reveals(self) -> dict[SiteId, bytes]:
        return {s: self.open(s).packet for s in NAMES}

    def drawn(self, site, reveals) -> SiteDrawn:
        opened = self.open(site)
        request = self.request("draw", reveals, opened.bound)
        return SiteDrawn.enter(opened, request, self.cohort, 2, self.keys[site].sign)


def test_all_sites_and_the_coordinator_draw_the_same_groups():
    party = Party()
    draw = Draw(party.roster, party.context, 2, party.run, party.coordinator.sign, party.commitments, party.reveals())
    every = [party.drawn(s, draw.reveals) for s in NAMES]
    assert {one.groups for one in every} == {draw.groups}
    assert sorted(s for group in draw.groups for s in group) == list(NAMES)
    assert sorted(map(len, draw.groups)) == [3, 4]
    for site, one in zip(NAMES, every, strict=True):
        assert draw.accept_draw(site, one.packet) == one.packet
    assert Draw.restore(draw.record(), party.draw).groups == draw.groups
    mine = group_roster(draw.groups, NAMES[0], party.roster)
    assert mine.ids == next(g for g in draw.groups if NAMES[0] in g)
    assert len({group_roster(draw.groups, s, party.roster).digest() for s in NAMES}) == 2


def test_stages_come_back_from_the_record():
    party = Party()
    opened = party.open(NAMES[0])
    assert SiteCommitted.restore(party.states[NAMES[0]].record()) == party.states[NAMES[0]]
    assert SiteOpened.restore(opened.record()) == opened
    with pytest.raises(FedsecError):
        SiteOpened.restore(opened.committed.record())
    with pytest.raises(FedsecError):
        SiteCommitted.restore(opened.record())
    assert opened.committed.nonce.reveal() not in repr(opened).encode()


class TestRefused:
    def test_a_set_of_commitments_without_a_site(self):
        party = Party()
        fewer = {s: p for s, p in party.commitments.items() if s != NAMES[3]}
        with pytest.raises(PeerViolationError, match="of all 7 sites of the roster, found 6; missing: site-d"):
            party.open(NAMES[0], fewer)

    def test_a_commitment_that_its_owner_did_not_sign(self):
        party = Party()
        body = commitment(party.context, NAMES[1], bytes(32))
        forged = party.commitments | {NAMES[1]: seal("commit", NAMES[1], party.context, body, party.coordinator.sign)}
        with pytest.raises(VerificationError):
            party.open(NAMES[0], forged)

    def test_a_site_whose_own_commitment_was_replaced(self):
        """Under its own key, as a replay of what it signed in another life of its record would be."""
        party = Party()
        other = SiteCommitted.begin(NAMES[0], party.context, party.keys[NAMES[0]].sign).packet
        with pytest.raises(PeerViolationError, match="the commitment of site-a came back changed"):
            party.open(NAMES[0], party.commitments | {NAMES[0]: other})

    def test_a_commitment_of_another_run(self):
        party = Party()
        context = draw_context(bytes(32), "run-2", party.roster.digest())
        other = SiteCommitted.begin(NAMES[1], context, party.keys[NAMES[1]].sign).packet
        with pytest.raises(PeerViolationError, match="belongs to another plan, run"):
            party.open(NAMES[0], party.commitments | {NAMES[1]: other})

    def test_a_commitment_of_another_length(self):
        party = Party()
        short = seal("commit", NAMES[1], party.context, bytes(31), party.keys[NAMES[1]].sign)
        with pytest.raises(PeerViolationError, match="site-b sent 31 bytes to commit"):
            party.open(NAMES[0], party.commitments | {NAMES[1]: short})

    def test_another_set_once_a_nonce_is_out(self):
        party = Party()
        opened = party.open(NAMES[0])
        opened.require_same(party.request("reveal", party.commitments), party.cohort)
        again = SiteCommitted.begin(NAMES[1], party.context, party.keys[NAMES[1]].sign).packet
        with pytest.raises(PeerViolationError, match="groups are drawn once a run"):
            opened.require_same(party.request("reveal", party.commitments | {NAMES[1]: again}), party.cohort)

    def test_a_missing_reveal(self):
        party = Party()
        reveals = party.reveals()
        del reveals[NAMES[5]]
        with pytest.raises(PeerViolationError, match="found 6; missing: site-f"):
            party.drawn(NAMES[0], reveals)

    def test_a_nonce_that_was_not_committed_to(self):
        """The last one to open would choose the groups."""
        party = Party()
        reveals, bound = party.reveals(), opened_context(party.context, party.commitments)
        chosen = seal("reveal", NAMES[1], bound, bytes(32), party.keys[NAMES[1]].sign)
        with pytest.raises(PeerViolationError, match="site-b opened other bytes than it committed to"):
            party.drawn(NAMES[0], reveals | {NAMES[1]: chosen})
        draw = Draw(party.roster, party.context, 2, party.run, party.coordinator.sign, party.commitments)
        with pytest.raises(PeerViolationError, match="opened other bytes"):
            draw.accept_reveal(NAMES[1], chosen)

    def test_a_nonce_that_was_opened_for_another_set(self):
        """A colluder that committed twice gets honest sites' nonces for one set, and no draw from the other."""
        party = Party()
        second = SiteCommitted.begin(NAMES[1], party.context, party.keys[NAMES[1]].sign)
        other = party.commitments | {NAMES[1]: second.packet}
        reveals = party.reveals()
        stale = party.open(NAMES[2], other).packet
        with pytest.raises(PeerViolationError, match="belongs to another plan, run"):
            party.drawn(NAMES[0], reveals | {NAMES[2]: stale})

    def test_a_site_that_says_it_drew_other_groups(self):
        party = Party()
        draw = Draw(
            party.roster, party.context, 2, party.run, party.coordinator.sign, party.commitments, party.reveals()
        )
        bound = opened_context(party.context, party.commitments)
        other = seal("draw", NAMES[1], bound, groups_digest(tuple(reversed(draw.groups))), party.keys[NAMES[1]].sign)
        with pytest.raises(PeerViolationError, match="site-b drew other groups"):
            draw.accept_draw(NAMES[1], other)

    def test_the_coordinator_asks_for_no_nonce_before_all_have_committed(self):
        with pytest.raises(PeerViolationError, match="found 0"):
            Party().draw.reveal_request()


def reference(names, seed: bytes) -> list[str]:
    """Written from the page, another way round: the first eight bytes of each hash, too large ones thrown away."""
    order, k = list(names), 0
    for i in reversed(range(1, len(order))):
        while True:
            text = b"fedsec draw word v1"
            block = len(text).to_bytes(2, "big") + text + seed + k.to_bytes(4, "big")
            word = int(hashlib.sha256(block).hexdigest()[:16], 16)
            k += 1
            if word < (2**64 // (i + 1)) * (i + 1):
                break
        j = word % (i + 1)
        order[j], order[i] = order[i], order[j]
    return order


@given(st.binary(min_size=32, max_size=32), st.integers(1, 40))
def test_the_shuffle_is_the_one_of_the_page(seed, count):
    names = [SiteId(f"s{i}") for i in range(count)]
    assert list(shuffled(names, seed)) == reference(names, seed)


def test_vectors():
    names = [SiteId(s) for s in "abcdef"]
    assert "".join(shuffled(names, bytes(32))) == VECTORS[0]
    assert "".join(shuffled(names, bytes(range(32)))) == VECTORS[1]


VECTORS = ("cfabed", "badcef")


def test_every_order_has_the_same_chance():
    """24 orders of four sites over seeds 0 to 11999; the seeds are fixed, so this cannot fail by chance."""
    names = [SiteId(s) for s in "abcd"]
    found = Counter("".join(shuffled(names, hashlib.sha256(k.to_bytes(4, "big")).digest())) for k in range(12_000))
    assert len(found) == 24
    assert stats.chisquare(list(found.values())).pvalue > 0.01


def test_a_word_that_would_favour_some_places_is_left_out(monkeypatch):
    """2^64 is no multiple of 3: the largest word would make place 0 likelier."""
    from fedsec_secure.masking import draw

    monkeypatch.setattr(draw, "_words", lambda seed: iter([2**64 - 1, 1, 1]))
    assert shuffled([SiteId(s) for s in "abc"], bytes(32)) == ("a", "c", "b")


@given(st.integers(6, 60), st.integers(2, 20), st.binary(min_size=32, max_size=32))
def test_groups_hold_everybody_once_and_differ_by_one(sites, count, seed):
    names = [SiteId(f"s{i:02d}") for i in range(sites)]
    if sites < 3 * count:
        with pytest.raises(ConfigError, match="expected at least two groups of 3 sites"):
            deal(shuffled(names, seed), count)
        return
    groups = deal(shuffled(names, seed), count)
    assert sorted(s for g in groups for s in g) == names
    assert len(groups) == count
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert min(map(len, groups)) >= 3


def test_one_group_is_no_group():
    with pytest.raises(ConfigError):
        deal([SiteId(f"s{i}") for i in range(9)], 1)


def test_one_honest_nonce_decides(monkeypatch):
    """The same bytes of everybody else: other groups all the same."""
    party = Party()
    found = set()
    for _ in range(20):
        fresh = SiteCommitted.begin(NAMES[0], party.context, party.keys[NAMES[0]].sign)
        party.states[NAMES[0]], party.commitments = fresh, party.commitments | {NAMES[0]: fresh.packet}
        found.add(drawn_groups(party.reveals(), party.commitments, party.context, party.roster, 2))
    assert len(found) > 10
