"""What colluding sites and a lying coordinator can open, and that below the stated number they open nothing.

Two groups of honest sites are shown two survivor sets. The colluders are in both, sign both, and give both shares of
the victim; the victim's self-mask seed then comes from one group, its mask key from the other (Bonawitz et al. 2017,
section 6).
"""

from __future__ import annotations

import numpy as np
import pytest

from fedsec_secure.codec import open_packet, seal
from fedsec_secure.errors import AbortError
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.masking import keys
from fedsec_secure.masking.coordinator_collect import Shared, Stated
from fedsec_secure.masking.messages import Revealed, ShareKind, encode_packets, set_digest
from fedsec_secure.masking.vector import sum_words
from fedsec_secure.numeric import shamir
from fedsec_secure.numeric.keystream import ArraySource
from fedsec_secure.secrets import SecretBytes
from tests.sim.network import SimNetwork, measure, parameters_for, words_of
from tests.sim.test_masked_round import make_updates

LENGTH = 50


def tolerated(sites: int, quorum: int, threshold: int) -> int:
    """Most colluders that open nothing: below 2q - N no two sets, below q - 1 no subtraction, below t no keys."""
    return min(2 * quorum - sites, quorum - 1, threshold) - 1


class TwoViews:
    """A round in which the coordinator and the first ``colluders`` sites work together against one site."""

    def __init__(self, sites: int, threshold: int, colluders: int):
        updates = make_updates(np.random.default_rng(sites), sites, LENGTH)
        self.net = SimNetwork(updates, parameters_for(sites, LENGTH), threshold)
        names = sorted(self.net.sites)
        self.bad, honest = names[:colluders], names[colluders:]
        half = (len(honest) + 1) // 2
        self.groups = (honest[:half], honest[half:])
        self.victim = honest[0]
        self.shares: dict[ShareKind, dict[int, bytes]] = {kind: {} for kind in ShareKind}

    def masked(self) -> None:
        """The honest part: `train`, `share`, `mask`; what the colluders hold of the victim is kept."""
        net, sign = self.net, self.net.coordinator.sign
        stated, _ = Stated.collect(
            net.group, net.parameters, net.context, sign, net.exchange("train", dict.fromkeys(net.sites, b""))
        )
        self.round, _ = Shared.gather(stated, net.exchange("share", stated.share_requests()))
        self.uploads = net.exchange("mask", self.round.mask_requests())
        for site in self.bad:
            self.keep(site, dict(zip(ShareKind, net.sites[site].state.shares[self.victim], strict=True)))

    def keep(self, site: str, shares: dict[ShareKind, bytes]) -> None:
        for kind, share in shares.items():
            self.shares[kind][self.net.group.roster.index(site)] = share

    def show(self, group: list[str]) -> None:
        """One group's survivor set: the colluders and itself."""
        net, bound = self.net, self.round.bound
        heads = {s: measure(self.uploads[s], net.parameters).head for s in (*self.bad, *group)}
        signed = net.exchange("confirm", dict.fromkeys(group, self.request("confirm", heads)))
        for site in self.bad:
            signed[site] = seal("confirm", site, bound, set_digest("U3", heads), net.sites[site].key.sign)
        for site, reply in net.exchange("unmask", dict.fromkeys(group, self.request("unmask", signed))).items():
            verify = net.group.roster.verifier(site)
            body = open_packet(reply, kind="unmask", sender=site, context=bound, verify=verify)
            kind, share = Revealed.decode(body).shares[self.victim]
            self.keep(site, {kind: share})

    def request(self, name: str, packets: dict[str, bytes]) -> bytes:
        body = encode_packets(packets)
        return seal(f"{name}-request", COORDINATOR, self.round.bound, body, self.net.coordinator.sign)

    def victims_words(self) -> np.ndarray:
        net, bound = self.net, self.round.bound
        seed, secret = (self.recover(kind) for kind in (ShareKind.SELF_SEED, ShareKind.MASK_KEY))
        plus, minus = [], [keys.self_mask(seed, self.victim, bound).vector]
        for peer in self.round.dealings:
            if peer != self.victim:
                public = self.round.parsed[peer].mask_key
                key = keys.pair_mask(secret, public, self.victim, peer, bound).vector
                (minus if self.victim < peer else plus).append(key)
        upload = ArraySource(words_of(self.uploads[self.victim], net.parameters))
        return sum_words(net.parameters.words, [upload], plus, minus)

    def recover(self, kind: ShareKind) -> SecretBytes:
        return shamir.combine(self.shares[kind], self.net.group.threshold)


@pytest.mark.parametrize(("sites", "threshold"), [(6, 5), (7, 5), (8, 6), (10, 7)])
def test_two_survivor_sets_need_more_colluders_than_are_tolerated(sites, threshold):
    """Only one of the two groups can be made large enough: one of the victim's two secrets stays shut."""
    attack = TwoViews(sites, threshold, tolerated(sites, threshold, threshold))
    attack.masked()
    attack.show(attack.groups[0])
    with pytest.raises(AbortError, match=f"U3 has {threshold - 1} sites; this site takes part from {threshold} on"):
        attack.show(attack.groups[1])
    assert len(attack.shares[ShareKind.SELF_SEED]) >= threshold
    assert len(attack.shares[ShareKind.MASK_KEY]) < threshold


@pytest.mark.parametrize(("sites", "threshold"), [(6, 5), (7, 5), (8, 6), (10, 7)])
def test_one_colluder_more_opens_the_victim(sites, threshold):
    """The bound is tight: this is what the officer's page must not promise against."""
    attack = TwoViews(sites, threshold, tolerated(sites, threshold, threshold) + 1)
    attack.masked()
    for group in attack.groups:
        attack.show(group)
    np.testing.assert_array_equal(
        attack.victims_words(), attack.net.sites[attack.victim].encoded(attack.net.parameters)
    )
