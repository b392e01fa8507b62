"""One step of DP-SGD over the units of several sites, whose noise is the sum of what the sites add.

Every number that sampling, rounding, noise and accounting take comes from one :class:`DistributedStep`. The privacy of
such a step is that of Gaussian noise on pooled data (``mechanisms``), so ``accountant.calibrate`` finds its noise
multiplier. What distribution costs is noise, not epsilon: the clipping norm grows a little by rounding, and survivors
beyond the ``honest`` ones, on whom nobody may count, add noise too.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from fedsec.privacy.mechanisms import LEAST_CLIP, SMOOTHING, root_above
from fedsec_secure.accounting.events import (
    LEAST_SIGMA,
    MOST_SUMMANDS,
    DiscreteGaussianSumEvent,
    PoissonSampledEvent,
    PoissonSampledRecordsEvent,
)
from fedsec_secure.errors import ConfigError
from fedsec_secure.numeric.conditional_rounding import ConditionalRounding
from fedsec_secure.numeric.discrete_gaussian import SIGMA_RANGE, DiscreteGaussian
from fedsec_secure.numeric.poisson_sampling import PoissonSampler


@dataclass(frozen=True)
class DistributedStep:
    """What every site does in one step, and what the sum is charged for.

    A site draws its units with ``sampler``, clips the gradient of each to ``clip`` in float64, divides by ``grid``,
    rounds it with ``rounding``, adds up the integers and draws of ``noise`` (one per coordinate), and masks the sum.
    The sum over the survivors modulo 2^64 is what is released, and nothing else: no batch size, no count. Privacy does
    not depend on whether it wraps around; it does not while units * (clip_in_steps + 1) + sites * 15 sigma < 2^63.

    Raises:
        ConfigError: there is no such step, or its noise is outside of what can be drawn and accounted for.
    """

    rate: float
    """Of the Poisson sampling, the same at every site; above 2^-64 and at most 1."""
    noise_multiplier: float
    """Standard deviation of the noise over the sensitivity, from 1e-6 to 1e6, that any accepted sum is charged for."""
    clip: float
    """L2 norm to which each unit's gradient is clipped, from 2^-64; in the gradient's unit."""
    clip_in_steps: int
    """The same in grid steps, from 1 to 2^30."""
    dimension: int
    """How many coordinates a gradient has, from 1 to 2^40."""
    survivors: int
    """Below so many sites in a sum, it must not be revealed."""
    colluding: int
    """How many of them may tell each other, or the coordinator, their noise. 0 protects from no site, as each knows its
    own."""
    records: int = 1
    """How many vectors of one unit are drawn, each by itself; 1 where units are drawn."""

    def __post_init__(self) -> None:
        if not LEAST_CLIP <= self.clip < float("inf"):
            raise ConfigError(f"distributed noise: expected a clipping norm from 2^-64, found {self.clip}: use 1 or so")
        if not 1e-6 <= self.noise_multiplier <= 1e6:
            raise ConfigError(
                f"distributed noise: expected a noise multiplier from 1e-6 to 1e6, found {self.noise_multiplier}: "
                "use the one that a target epsilon takes"
            )
        if not 0 <= self.colluding < self.survivors or self.honest > MOST_SUMMANDS:
            raise ConfigError(
                f"distributed noise: expected fewer colluding sites than survivors, and at most {MOST_SUMMANDS} more "
                f"survivors, found {self.colluding} and {self.survivors}: wait for more sites, or trust more of them"
            )
        if not LEAST_SIGMA <= self.sigma <= SIGMA_RANGE[1]:  # makes `rounding` too, which checks what it takes
            raise ConfigError(
                f"distributed noise: expected noise of {LEAST_SIGMA} to 2^40 grid steps a site, found {self.sigma:g}: "
                f"{self.clip_in_steps} steps for the clipping norm are too {'few' if self.sigma < 5 else 'many'}"
            )
        _ = self.event  # PoissonSampler checks the rate

    @property
    def honest(self) -> int:
        """How many sites' noise is in every accepted sum and known to nobody else, at least."""
        return self.survivors - self.colluding

    @property
    def grid(self) -> float:
        """The grid's step, in the gradient's unit."""
        return self.clip / self.clip_in_steps

    @cached_property
    def rounding(self) -> ConditionalRounding:
        """Turns a clipped gradient, divided by :attr:`grid`, into integers."""
        return ConditionalRounding(self.clip_in_steps, self.dimension)

    @cached_property
    def sensitivity(self) -> float:
        """The largest norm of one unit's integers, rounded up; a little more than ``clip_in_steps``."""
        return root_above(Fraction(self.rounding.squared_norm_bound))

    @cached_property
    def sigma(self) -> float:
        """The parameter of each site's discrete Gaussian, in grid steps, rounded up.

        ``honest`` of them have the variance (noise_multiplier * sensitivity)^2 and what smoothing takes.
        """
        wanted = (Fraction(self.noise_multiplier) * Fraction(self.sensitivity)) ** 2
        return root_above((wanted + SMOOTHING) / self.honest)

    @property
    def sampler(self) -> PoissonSampler:
        """Draws the units of one step at one site."""
        return PoissonSampler(self.rate)

    @property
    def noise(self) -> DiscreteGaussian:
        """Draws one site's noise."""
        return DiscreteGaussian(self.sigma)

    @property
    def event(self) -> PoissonSampledEvent | PoissonSampledRecordsEvent:
        """What one step is charged as, at every site; ``SelfComposed`` makes several of it."""
        once = DiscreteGaussianSumEvent(self.sensitivity, self.sigma, self.honest, self.dimension)
        if self.records > 1:
            return PoissonSampledRecordsEvent(self.sampler.accounted, self.records, once)
        return PoissonSampledEvent(self.sampler.accounted, once)
