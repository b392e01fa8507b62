"""The parts of a study plan: model, adapter, task, training, privacy, aggregation, weights, evaluation.

Frozen and strictly parsed. A field's docstring is also its comment in a TOML file and its line on the officer's page.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PublicKeyHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RUN_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
LabelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]


class Strict(BaseModel):
    """Base of every signed document: frozen, no unknown fields, no silent conversions, no NaN.

    A field's docstring is also its comment in a TOML file and its line on the officer's page.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelSpec(Strict):
    """The base model. ``base`` is a name, a Hugging Face id, a local folder or a GGUF file."""

    base: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    weights_sha256: Sha256Hex | None = None
    """Digest of the loaded weights (``training.base_model.weights_digest``); a compiled plan must have it."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    quantisation: Literal["none", "nf4", "int8"] = "none"


class LoraSpec(Strict):
    """LoRA shape (Hu et al. 2021) and how the factors are combined over sites."""

    strategy: Literal["fedit", "ffa", "rolora", "fedsa", "fedsvd", "fed-sb"] = "fedit"
    """What is trained, and what of it travels; docs/strategies.md has them side by side."""
    rank: int = Field(16, ge=1, le=256)
    alpha: float = Field(64.0, gt=0, le=4096)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[LabelName, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    site_ranks: dict[SiteName, Annotated[int, Field(ge=1, le=256)]] = {}
    """Sites that train a lower rank than the others: the first rows of A and columns of B. Their updates are zero
    elsewhere (zero padding, HetLoRA, Cho et al. 2024)."""


class TaskSpec(Strict):
    """What is learnt. Sites may annotate any subset of the labels (incomplete annotations)."""

    kind: Literal["entities", "relations", "both", "title"] = "both"
    """Mentions, links between given mentions, both, or the title of a text, which is written and not marked."""
    entity_types: tuple[LabelName, ...] = ()
    """At least one; none with kind title."""
    relation_types: tuple[LabelName, ...] = ()
    window: Literal["sentence", "passage"] = "sentence"
    """What a note is cut into. Kind title takes it whole."""

    @model_validator(mode="after")
    def _labels_fit_the_kind(self) -> TaskSpec:
        if self.kind == "title" and (self.entity_types or self.relation_types):
            raise ValueError('kind is "title", which asks for no labels; leave entity_types and relation_types out')
        if self.kind != "title" and not self.entity_types:
            raise ValueError(f'kind is "{self.kind}" without entity_types; name at least one')
        return self


class TrainingSpec(Strict):
    """Local training of one round at one site."""

    learning_rate: float = Field(2e-4, gt=0, le=1)
    batch_size: int = Field(4, ge=1, le=4096)
    """Examples in a step; with differential privacy only how many are computed at a time."""
    epochs: int = Field(2, ge=1, le=100)
    """Passes over the round's share of the examples; differential privacy draws its batches instead."""
    examples_per_round: int | None = Field(None, ge=1, le=1 << 24)
    """How many examples of the site's (shuffled once by the plan's seed) a round consumes, going on where the last
    round stopped and wrapping round; None: all of them every round."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    """Over all the rounds of the plan, so that round r starts where round r - 1 stopped."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    gradient_clip: float = Field(1.0, gt=0)
    """Norm that a batch's gradient is scaled down to; not with differential privacy, which clips every unit's own."""
    proximal_mu: float = Field(0.0, ge=0, le=1e4)
    """FedProx: pulls what is trained back to where the round started, by mu times the distance (Li et al. 2020); 0: not
    at all."""
    max_tokens: int = Field(800, ge=16, le=32768)
    threads: int = Field(2, ge=1, le=256)


class DpSpec(Strict):
    """Differential privacy of training."""

    mode: Literal["none", "local", "distributed"] = "none"
    unit: Literal["record", "patient"] = "patient"
    """Whose presence is hidden: one example, or all examples of a patient."""
    target_epsilon: float | None = Field(None, gt=0)
    """What one unit may be charged over the whole study; only with a mode other than none."""
    target_delta: float | None = Field(None, gt=0, lt=1)
    """The δ beside it; a compiled plan has it, 1e-5 where a draft says nothing."""
    noise_multiplier: float | None = Field(None, ge=0.125, le=32768)
    """The noise's standard deviation over the sensitivity; a compiled plan has it, and where a draft says nothing it is
    the smallest that keeps the target."""
    sampling_rate: float = Field(0.05, gt=0, le=1)
    """Every unit takes part in a step with this chance, by a coin of its own."""
    sampling: Literal["unit", "record"] = "unit"
    """What the coins are for. With unit patient, `record` draws and clips examples one by one and accounts for a
    patient's whole share (Charles et al. 2024, example-level sampling); `unit` draws patients, with a few examples each
    (user-level sampling)."""
    steps: int = Field(20, ge=1, le=100_000)
    """Local steps of a round, those that drew nobody included. With mode distributed a round is one step."""
    clipping_norm: float = Field(1.0, ge=2**-64, le=1e6)
    """A unit's gradient is scaled down to at most this norm over all trained factors together."""
    expected_batch: int = Field(16, ge=1, le=1 << 24)
    """The noisy sum is divided by this number, never by a site's own count. Of a site's units in mode local, of all
    sites' together in mode distributed."""
    max_records: int = Field(4, ge=1, le=1 << 16)
    """With unit patient: at most so many of a drawn patient's examples enter a step, drawn anew each time; their mean
    is clipped. With sampling record: so many of a patient's examples are used at all, always the same."""
    colluders: int = Field(1, ge=0, le=999)
    """Mode distributed: so many of the sites in a sum may tell others their own noise, and the rest is enough."""
    keys_ahead: int = Field(8, ge=1, le=256)
    """Mode distributed: keys of so many rounds are shared at a time, ahead of them; each round has its own."""
    dimension: int | None = Field(None, ge=1, le=1 << 31)
    """Mode distributed: how many coordinates are trained; a compiled plan has it."""


class CanarySpec(Strict):
    """Made-up records that each site trains on beside its notes, to measure what the adapter gives away of one record
    (Carlini et al. 2019). Each site's are its own, and no other site's or the coordinator's to know."""

    per_site: int = Field(0, ge=0, le=64)
    """How many; 0: exposure is not measured. At the end of the run each site signs how exposed its own are."""
    repeats: int = Field(1, ge=1, le=64)
    """How often each of them stands among a site's examples, as a note does that was copied."""
    candidates: int = Field(127, ge=31, le=1023)
    """How many answers that nobody trained on each one is compared with: log2(1 + candidates) bits is all that can be
    seen."""


class SecureSpec(Strict):
    """How updates are combined."""

    mode: Literal["mask", "he-mask", "he", "none"] = "mask"
    minimum_cohort: int = Field(3, ge=1, le=1000)
    """No round ends with fewer sites in its sum; at least 3 wherever masks protect."""
    threshold: int = Field(3, ge=1, le=1000)
    """How many sites together can open a mask: at least two thirds of the roster and one more, floor(2N/3) + 1."""
    min_cohort_change: int = Field(2, ge=1, le=1000)
    """Two sums without differential privacy are over the same sites or differ by so many: 1 allows any difference."""
    clip: float = Field(0.5, gt=0, le=1e6)
    """Every coordinate of an update is clipped to [-clip, clip] before it is encoded."""
    ring: Literal["2x32", "3x21", "4x16"] = "3x21"
    """Lanes a 64-bit word carries x bits a lane. Encrypted words have lanes of their own, 2x23."""

    @property
    def is_masked(self) -> bool:
        """Whether updates travel under masks, encrypted besides or not."""
        return self.mode in {"mask", "he-mask"}

    @property
    def is_encrypted(self) -> bool:
        """Whether words travel encrypted under a key of the sites, so that sums are opened there."""
        return self.mode in {"he-mask", "he"}

    @property
    def lanes(self) -> str:
        """The lanes of the words that travel."""
        return "2x23" if self.is_encrypted else self.ring

    @model_validator(mode="after")
    def _lanes_are_those_of_the_mode(self) -> SecureSpec:
        if self.lanes == "2x23" and self.ring != "3x21":
            raise ValueError(f'ring is set, but encrypted words (mode "{self.mode}") have lanes of their own: drop it')
        return self

    @property
    def quorum(self) -> int:
        """The fewest sites that any accepted sum holds: max(threshold, minimum_cohort); without masks no threshold."""
        return max(self.threshold, self.minimum_cohort) if self.is_masked else self.minimum_cohort


class ServerSpec(Strict):
    """What is done with a decoded sum, the same at the coordinator and at every site (Reddi et al. 2021, "Adaptive
    Federated Optimization", algorithm 2)."""

    optimiser: Literal["average", "adam"] = "average"
    """average: the mean update is added (FedAvg). adam: it is taken as a gradient (FedAdam; no bias correction)."""
    learning_rate: float = Field(1e-3, gt=0, le=10)
    """Only adam's, as what follows."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, ge=1e-12, le=1)
    """Adaptivity: added to the root of the second moment, which starts at tau squared: both are numbers in float32."""

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> ServerSpec:
        changed = [name for name in ("learning_rate", "beta1", "beta2", "tau") if getattr(self, name) != _DEFAULT[name]]
        if self.optimiser == "average" and changed:
            raise ValueError(f'{changed[0]} is set, but optimiser is "average": drop it, or choose "adam"')
        return self


_DEFAULT = {name: field.default for name, field in ServerSpec.model_fields.items()}


class PublicTest(Strict):
    """A test set on which per-site scores may be shown, because it holds no site's private notes."""

    name: SiteName
    sha256: Sha256Hex | None = None
    """Digest of the annotated documents; a compiled plan must have it."""
    entity_types: tuple[LabelName, ...] = ()
    """The labels that its prompts ask for; at least one, but for kind title, which asks for none."""
    relation_types: tuple[LabelName, ...] | None = None
    """The relations that its prompts ask for; left out: none are annotated."""
    limit: int | None = Field(None, ge=1, le=1 << 24)
    """Use at most so many examples; the same ones always."""


class ValidationSet(PublicTest):
    """A public set of examples that weights are drawn from. Not a test set: what is weighed by it is fitted to it."""

    examples: int | None = Field(None, ge=1, le=1 << 24)
    """How many examples it has; a compiled plan says so."""


class PrivateScore(Strict):
    """Scores on a site's own held-out notes ([test] of its site file), with noise that its ledger pays for."""

    noise_multiplier: float = Field(ge=0.125, le=32768)
    """The noise's standard deviation, in twos of nats: what one unit can move the sum of losses by, between 0 and 4."""
    expected_units: int = Field(ge=1, le=1 << 24)
    """What the noisy sum is divided by, instead of a site's own count: about as many units as a site holds out."""


class WeightingSpec(Strict):
    """Public weight rule of a round (DESIGN: weighting without looking)."""

    rule: Literal["uniform", "size", "influence", "group-influence"] = "uniform"
    count_min: int = Field(1, ge=1, le=1 << 24)
    count_max: int = Field(1 << 20, ge=1, le=1 << 24)
    cap: float = Field(0.5, gt=0, le=1)
    """No site may weigh more than this share of a round."""
    effective_cohort: float = Field(1.0, ge=1, le=1000)
    """Rule influence: a round whose weights w are worth fewer equal sites, (sum w)^2 / sum w^2, is refused. Rule
    group-influence: weights are cut down until they are worth so many."""
    size_bins: dict[SiteName, Annotated[int, Field(ge=1, le=64)]] = Field({}, max_length=1000)
    """Rule influence: how large a site is beside the others, in round numbers that its officers approve, never a count;
    a site that is not named has 1."""
    groups: int | None = Field(None, ge=2, le=333)
    """Rule group-influence: into how many groups sites are drawn, once a run; at least three in each."""
    validation: ValidationSet | None = None
    """Rule influence: what every site's own adapted model is scored on; rule group-influence: what the decrypted sums
    of groups are. It holds no site's private notes."""
    private: PrivateScore | None = None
    """Rule influence with local differential privacy: scores on held-out notes instead of a public set."""

    @field_validator("size_bins")
    @classmethod
    def _in_order(cls, bins: dict[str, int]) -> dict[str, int]:
        return dict(sorted(bins.items()))


class EvaluationSpec(Strict):
    """Scoring by greedy decoding, and which baselines the study compares with."""

    public_tests: tuple[PublicTest, ...] = ()
    baselines: tuple[Literal["zero-shot", "single", "central"], ...] = ()
    max_new_tokens: int = Field(160, ge=1, le=4096)
    batch_size: int = Field(25, ge=1, le=4096)
    single_test_limit: int | None = Field(None, ge=1, le=1 << 24)
    """At most so many examples of each public test set for the single-site baselines."""
    zero_shot_test_limit: int | None = Field(None, ge=1, le=1 << 24)
    """At most so many for zero-shot: an untrained model rambles on to max_new_tokens, which is slow."""
    round_test_limit: int | None = Field(None, ge=1, le=1 << 24)
    """Score the shared adapter after every round on at most so many examples of each public test set; None: do not."""
