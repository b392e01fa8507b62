"""Coordinator, stage 5: recover the secrets that the shares open, check each against what was advertised, and sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedsec_secure.codec import open_packet
from fedsec_secure.errors import AbortError, LocalMisuseError, PeerViolationError
from fedsec_secure.he.parameters import BfvParameters
from fedsec_secure.he.ring import SumFrames, add_masks, sum_frames
from fedsec_secure.identity import agreement
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking import keys
from fedsec_secure.masking.coordinator_collect import Confirmed, Refused, Shared, require, sift
from fedsec_secure.masking.messages import Revealed, ShareKind
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.masking.tag import PRIME
from fedsec_secure.masking.vector import sum_words
from fedsec_secure.numeric import shamir
from fedsec_secure.numeric.keystream import MaskStreams, WordSource
from fedsec_secure.numeric.lanes import Words
from fedsec_secure.secrets import SecretBytes


@dataclass(frozen=True)
class Total:
    """What the coordinator hands to the sites: the sum, uint64[words], and its tag, which it cannot check itself."""

    words: Words = field(repr=False)
    tag: int


@dataclass(frozen=True)
class ClosedTotal:
    """The same where uploads were encrypted: the sum's encryption, under a key that only the sites have."""

    frames: SumFrames = field(repr=False)
    tag: int


@dataclass(frozen=True)
class Unmasked:
    """The masks that stand between the sum of the uploads and the sum of the inputs."""

    confirmed: Confirmed
    plus: Sequence[keys.Mask] = field(repr=False)
    minus: Sequence[keys.Mask] = field(repr=False)

    @classmethod
    def gather(cls, confirmed: Confirmed, replies: Mapping[SiteId, bytes]) -> tuple[Unmasked, Refused]:
        """From the `unmask` replies. A share that its dealer did not sign is set aside, its sender named."""
        shared = confirmed.masked.shared
        revealed, refused = sift(replies, lambda site, data: _verify_reveal(confirmed, site, data))
        require(len(revealed), shared.group, "the set of reveals")
        plus: list[keys.Mask] = []
        minus: list[keys.Mask] = []
        for dealer in shared.dealings:
            shares = {s: r.shares[dealer][1] for s, r in revealed.items()}
            secret = _recover(shared, dealer, shares)
            if dealer in confirmed.masked.heads:
                _check_seed(shared, dealer, secret)
                minus.append(keys.self_mask(secret, dealer, shared.bound))
            else:
                _check_mask_key(shared, dealer, secret)
                _cancel_dropped(confirmed, dealer, secret, plus, minus)
        return cls(confirmed, plus, minus), refused

    def total(self, uploads: Mapping[SiteId, WordSource]) -> Total:
        """The sum of the survivors' encoded inputs, exact modulo the ring, and the sum of their tags modulo p."""
        sources, (plus, minus) = self._sources(uploads), self._masks()
        words = sum_words(self.confirmed.masked.shared.parameters.words, sources, plus, minus)
        return Total(words, self._tag(sources))

    def closed_total(self, uploads: Mapping[SiteId, WordSource], encryption: BfvParameters) -> ClosedTotal:
        """The same sum, encrypted as the uploads are: the masks are taken away inside, as plaintexts."""
        sources, words = self._sources(uploads), self.confirmed.masked.shared.parameters.words
        frames = sum_frames(sources, encryption, words)
        with MaskStreams(*self._masks()) as streams:
            add_masks(frames, encryption, words, streams)
        return ClosedTotal(frames, self._tag(sources))

    def _sources(self, uploads: Mapping[SiteId, WordSource]) -> list[WordSource]:
        return [uploads[site] for site in self.confirmed.masked.heads]

    def _masks(self) -> tuple[list[SecretBytes], list[SecretBytes]]:
        return [m.vector for m in self.plus], [m.vector for m in self.minus]

    def _tag(self, sources: Sequence[WordSource]) -> int:
        """From the last word of each upload, which is read now."""
        tags: int = sum(last_words(sources)) + sum(m.tag for m in self.plus) - sum(m.tag for m in self.minus)
        return tags % PRIME


def weighted_total(
    uploads: Mapping[SiteId, WordSource], weights: Mapping[SiteId, int], parameters: SumParameters
) -> ClosedTotal:
    """The sum of encrypted uploads without masks, each as often as its site weighs, and of their tags: no key is
    needed. ``weights``: of the sites in the sum, in the order of their names.

    Raises CodecError for a coefficient outside Z_q, ConfigError for weights past what decrypts.
    """
    if parameters.encryption is None:
        raise LocalMisuseError("expected uploads of a plan that encrypts them")
    sources, factors = [uploads[site] for site in weights], list(weights.values())
    frames = sum_frames(sources, parameters.encryption, parameters.words, factors)
    tag = sum(factor * word for factor, word in zip(factors, last_words(sources), strict=True))
    return ClosedTotal(frames, tag % PRIME)


def last_words(sources: Sequence[WordSource]) -> list[int]:
    """One more word of each."""
    words: Words = np.empty((len(sources), 1), dtype="<u8")
    for source, word in zip(sources, words, strict=True):
        source.read_into(word)
    found: list[int] = words[:, 0].tolist()
    return found


def _verify_reveal(confirmed: Confirmed, site: SiteId, data: bytes) -> Revealed:
    shared = confirmed.masked.shared
    # Check 42 (bad share): only survivors reveal.
    if site not in confirmed.masked.heads:
        raise PeerViolationError(f"a reveal by {site}, which is not in U3")
    verify = shared.group.roster.verifier(site)
    body = open_packet(data, kind="unmask", sender=site, context=shared.bound, verify=verify)
    revealed = Revealed.decode(body)
    # Check 43 (bad share): one share of every dealer.
    if set(revealed.shares) != set(shared.dealings):
        raise PeerViolationError(f"{site} revealed shares of another set of peers than U2")
    for dealer, (kind, share) in revealed.shares.items():
        due = ShareKind.SELF_SEED if dealer in confirmed.masked.heads else ShareKind.MASK_KEY
        promise = shared.promises[dealer].promises[site]
        expected = promise.self_share if due == ShareKind.SELF_SEED else promise.key_share
        # Check 44 (bad share): of the due kind, and the one that was dealt: its sender is named.
        if kind != due or keys.share_hash(kind, share, dealer, site, shared.context) != expected:
            raise PeerViolationError(f"{site} revealed a share of {dealer}'s that {dealer} did not deal")
    return revealed


def _recover(shared: Shared, dealer: SiteId, shares: Mapping[SiteId, bytes]) -> SecretBytes:
    roster, threshold = shared.group.roster, shared.group.threshold
    # Check 45 (bad share): fewer shares give another secret.
    if len(shares) < threshold:
        raise AbortError(f"{len(shares)} shares of {dealer}'s secret, {threshold} are needed")
    return shamir.combine({roster.index(site): share for site, share in shares.items()}, threshold)


def _check_seed(shared: Shared, dealer: SiteId, seed: SecretBytes) -> None:
    # Check 46 (bad share): the recovered seed is the advertised one.
    if keys.seed_hash(seed, dealer, shared.context) != shared.promises[dealer].self_seed:
        raise PeerViolationError(f"{dealer} dealt shares of another self-mask seed than it advertised")


def _check_mask_key(shared: Shared, dealer: SiteId, secret: SecretBytes) -> None:
    # Check 47 (bad share): the recovered mask key is the advertised one.
    if agreement.x25519_public(secret) != shared.parsed[dealer].mask_key:
        raise PeerViolationError(f"{dealer} dealt shares of another mask key than it advertised")


def _cancel_dropped(
    confirmed: Confirmed, dropped: SiteId, secret: SecretBytes, plus: list[keys.Mask], minus: list[keys.Mask]
) -> None:
    """Survivor s added its pair mask with the dropped site if s < dropped, else subtracted it: do the opposite."""
    shared = confirmed.masked.shared
    for survivor in confirmed.masked.heads:
        public = shared.parsed[survivor].mask_key
        mask = keys.pair_mask(secret, public, dropped, survivor, shared.bound)
        (minus if survivor < dropped else plus).append(mask)
