"""The numbers of one masked sum, with their bounds proved at construction, and the context that every message binds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedsec_secure.codec import DIGEST_BYTES, PROTOCOL_VERSION, Writer, sha256
from fedsec_secure.errors import ConfigError
from fedsec_secure.he.parameters import BfvParameters
from fedsec_secure.identity.roster import Roster, SiteId
from fedsec_secure.masking.tag import TAG_BYTES
from fedsec_secure.numeric.lanes import FixedPoint


@dataclass(frozen=True)
class RoundContext:
    """What a round is: H(version, plan, run, round, attempt, roster, global adapter). Bound by every signature,
    key derivation and AEAD tag of the round, so that nothing of one round is valid in another, and masks of sites that
    were sent different adapters do not cancel (Pasquini et al. 2022, model inconsistency).
    """

    plan: bytes
    run: str
    round: int
    attempt: int
    roster: bytes
    adapter: bytes

    def digest(self) -> bytes:
        """32 bytes."""
        out = Writer().text("fedsec round v1").uint(PROTOCOL_VERSION, 2)
        out.fixed(self.plan, DIGEST_BYTES).text(self.run).uint(self.round, 4).uint(self.attempt, 2)
        return sha256(out.fixed(self.roster, DIGEST_BYTES).fixed(self.adapter, DIGEST_BYTES).done())


AHEAD = sha256(b"fedsec v1: the adapter is not known yet")
"""Stands for the adapter in the contexts of rounds whose keys are shared ahead; `bound_context` adds the real one."""


@dataclass(frozen=True)
class SumParameters:
    """The vector that is summed: count limbs first, then the update's coordinates.

    Attributes:
        fixed: clip, scale, ring.
        length: coordinates of an update (d).
        weight_max: the largest weight a site may fold in; coordinates carry x * w / weight_max.
        hidden_weight: True where the weight is a private count, which then travels in its own masked limbs.
        denominator: set where the addends are integers already, with privacy noise in them: they are neither clipped
            nor rounded here, and the sum is divided by this number, whoever is in it. No lane has a bound of its own
            then: whatever a sum that left its lanes decodes to is a function of the sum.
        encryption: set where masked words travel encrypted. Everything is then modulo 2^plain_bits instead of 2^64.
    """

    fixed: FixedPoint
    length: int
    weight_max: int
    hidden_weight: bool
    denominator: int | None = None
    encryption: BfvParameters | None = None

    def __post_init__(self) -> None:
        if self.encryption is not None:
            bits = self.fixed.lanes.count * self.fixed.lanes.bits
            # Check 115 (overflow): no lane of a word is cut off by the encryption.
            if bits > self.encryption.plain_bits:
                raise ConfigError(
                    f"{bits} bits of lanes do not fit the {self.encryption.plain_bits} of an encrypted word"
                )
            self.encryption.check_weights(self.fixed.sites)
        if self.denominator is not None and (self.denominator < 1 or self.hidden_weight or self.weight_max != 1):
            raise ConfigError("integer addends have no weights, and their sum a denominator from 1")
        # Check 48 (overflow): the bounds below are proved for such sums only.
        if not 1 <= self.length <= 1 << 34 or not 1 <= self.weight_max <= 1 << 24:
            raise ConfigError("a sum has 1 to 2^34 coordinates and weights from 1 to 2^24")

    @property
    def limb_bits(self) -> int:
        """Bits of a count limb: ``sites * (2^limb_bits - 1)`` fits a lane."""
        return (self.fixed.lanes.largest_sum // self.fixed.sites + 1).bit_length() - 1

    @property
    def limbs(self) -> int:
        """Lanes that the hidden count takes; 0 where weights are public."""
        return -(-self.weight_max.bit_length() // self.limb_bits) if self.hidden_weight else 0

    @property
    def elements(self) -> int:
        """Lanes in use."""
        return self.limbs + self.length

    @property
    def words(self) -> int:
        """64-bit words of the vector."""
        return self.fixed.lanes.words(self.elements)

    @property
    def masked_bytes(self) -> int:
        """Bytes of a masked upload: the vector's words, or their encryption, then the tag."""
        vector = 8 * self.words if self.encryption is None else self.encryption.upload_bytes(self.words)
        return vector + TAG_BYTES

    def weighted(self, weights: Mapping[SiteId, int]) -> SumParameters:
        """The same for these public weights: the heaviest site's coordinates travel at full scale."""
        return self if self.hidden_weight else replace(self, weight_max=max(weights.values()))

    def public_weight(self, weights: Mapping[SiteId, int], members: Iterable[SiteId]) -> int | None:
        """What these members weigh together; None where weights are hidden, and the sum tells it."""
        return None if self.hidden_weight else sum(weights[site] for site in members)

    def largest_sum(self, survivors: int) -> int:
        """The largest absolute value that a coordinate of their sum may have."""
        return survivors * self.fixed.largest if self.denominator is None else self.fixed.lanes.largest_sum

    def unit(self, total_weight: int) -> float:
        """What one integer of a decoded sum stands for in the mean."""
        divisor = total_weight / self.weight_max if self.denominator is None else self.denominator
        return self.fixed.step / divisor

    def error_bound(self, survivors: int, total_weight: int) -> float:
        """No coordinate of the decoded mean is farther than this from the mean of the clipped updates:
        survivors * step * weight_max / total_weight, and six float32 roundings (clip, ratio, their product, the sum,
        the divisor, the quotient) of 2^-24 each, relative to at most survivors * clip * weight_max / total_weight.
        """
        ratio = self.weight_max / total_weight
        return survivors * ratio * (self.fixed.step + self.fixed.clip * 2.0**-21)


class WeightRule(Protocol):
    """Public weights from published scores (`fedsec_secure.weighting`)."""

    def weigh(self, scores: Mapping[SiteId, int]) -> dict[SiteId, int]:
        """Everyone's weight, from 1, from everyone's score level; AbortError where none could be accepted."""
        ...

    def why_not(self, weights: Collection[int]) -> str | None:
        """Why a sum with these weights is refused, or None."""
        ...


@dataclass(frozen=True)
class Cohort:
    """Who takes part, and the fewest that must stay (the larger of the plan's and the site's own floor).

    ``rule``: where the plan weighs by scores; without one no statement has a score, and public weights are all 1.
    """

    roster: Roster
    minimum_cohort: int
    rule: WeightRule | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        # Check 49 (small cohort): a floor that exists.
        if not 1 <= self.minimum_cohort <= len(self.roster.sites):
            raise ConfigError(
                f"expected a minimum cohort from 1 to the {len(self.roster.sites)} sites, found {self.minimum_cohort}"
            )

    @property
    def floor(self) -> int:
        """The fewest members any accepted set may have."""
        return self.minimum_cohort


@dataclass(frozen=True)
class Group(Cohort):
    """A cohort that aggregates under masks.

    ``threshold`` is Shamir's t, at least floor(2N/3) + 1 (Bonawitz et al. 2017, section 6: two survivor sets of t
    confirmed sites would share an honest site, and a site confirms one set only).
    """

    threshold: int

    def __post_init__(self) -> None:
        super().__post_init__()
        n = len(self.roster.sites)
        least = 2 * n // 3 + 1
        # Check 50 (small cohort): of two sites each knows the other's update.
        if n < 3 or self.minimum_cohort < 3:
            raise ConfigError(f"masked aggregation needs at least 3 sites and a minimum cohort of 3, found {n} sites")
        # Check 51 (split survivor sets): two sets of t sites share enough honest ones.
        if not least <= self.threshold <= n:
            raise ConfigError(f"{n} sites need a threshold from {least} to {n}, found {self.threshold}")

    @property
    def floor(self) -> int:
        """The larger of threshold and minimum cohort."""
        return max(self.threshold, self.minimum_cohort)
