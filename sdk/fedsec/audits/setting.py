"""What the audit of a step is told: the step's numbers, and how hard to try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedsec.audits.bounds import auditable, confidence_level
from fedsec.plan.cost import DEFAULT_DELTA
from fedsec.plan.specs import LoraSpec
from fedsec_secure.errors import ConfigError

LORA: Final = LoraSpec(strategy="ffa", rank=1, alpha=1.0, dropout=0.0, targets=("q_proj",))
"""Two tensors of 16: the smallest step in which clipping tensor by tensor differs from clipping all."""


@dataclass(frozen=True)
class Setting:
    """What is audited, and how hard. ConfigError for numbers that no step has or no audit can use.

    Attributes:
        noise_multiplier: z, standard deviation of the noise over the clipping norm.
        sampling_rate: q of the Poisson sampling.
        delta: at which epsilon is given.
        trials: steps with the canary, and as many without, on a sample; a third as many each on all units, on
            sampled records, and runs of several shared ones; a sixth shared ones.
        confidence: of the lower bounds on epsilon, all rows together.
        records: of a patient, where records are sampled.
    """

    noise_multiplier: float = 1.0
    sampling_rate: float = 0.5
    delta: float = DEFAULT_DELTA
    trials: int = 30_000
    confidence: float = 0.99
    records: int = 4

    def __post_init__(self) -> None:
        confidence_level(self.confidence)
        if not 400 <= self.trials <= 100_000:
            raise ConfigError(
                f"trials: expected from 400 to 100000, found {self.trials}: use 30000, or more for a tighter bound"
            )
        auditable(self.noise_multiplier, self.delta, self.records)
        if not 1e-3 <= self.sampling_rate <= 1:
            raise ConfigError(
                f"audit: expected a sampling rate from 0.001 to 1, found {self.sampling_rate}: at a lower one no "
                "number of trials would show epsilon"
            )

    @property
    def level(self) -> float:
        """Of one row that bounds epsilon."""
        return confidence_level(self.confidence) / (6 if self.sampling_rate < 1 else 5)
