"""The study plan: everything that a run is bound to, as one frozen, strictly parsed document.

A plan is written as TOML and compiled to canonical JSON (RFC 8785); its SHA-256 digest is what officers sign and what
every message of a run binds. A *draft* has no roster yet; a *plan* has one. Unknown fields are refused everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, Literal

import rfc8785
from pydantic import Field, field_validator, model_validator

from fedsec.plan.colluders import check_colluders
from fedsec.plan.encryption import check_encryption
from fedsec.plan.group_checks import check_group_sizes, check_groups, fewest_in_a_sum
from fedsec.plan.specs import (
    CanarySpec,
    DpSpec,
    EvaluationSpec,
    LoraSpec,
    ModelSpec,
    PublicKeyHex,
    SecureSpec,
    ServerSpec,
    SiteName,
    Strict,
    TaskSpec,
    TrainingSpec,
    WeightingSpec,
)
from fedsec.plan.strategy_checks import check_rank_sites, check_strategy
from fedsec.plan.weighting_checks import check_bins, check_scores, check_weights
from fedsec_secure.accounting.events import MOST_RECORDS
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import PublicKey

PLAN_FORMAT: Final = 1
MASKED_COHORT_FLOOR = 3
"""With two sites in a sum, each subtracts its own update and holds the other's."""


class RosterSite(Strict):
    """One site: who signs its messages and who may approve a plan for it. Ed25519 raw public keys, hex."""

    key: PublicKeyHex
    officer: PublicKeyHex
    co_officers: tuple[PublicKeyHex, ...] = Field((), max_length=63)
    """Further officers, always in order. How many of all of them must sign is the site's policy's to say."""

    @field_validator("co_officers")
    @classmethod
    def _in_order(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(keys))

    @property
    def officers(self) -> tuple[str, ...]:
        """All who may sign an approval, `officer` first."""
        return (self.officer, *self.co_officers)


class Roster(Strict):
    """Everyone in a run. Pinned: no message can add, drop or swap a key."""

    coordinator: PublicKeyHex
    sites: dict[SiteName, RosterSite] = Field(min_length=1, max_length=1000)
    """By name, always in the order of the names."""

    @field_validator("sites")
    @classmethod
    def _in_order(cls, sites: dict[str, RosterSite]) -> dict[str, RosterSite]:
        return dict(sorted(sites.items()))

    @model_validator(mode="after")
    def _everyone_has_a_key_of_their_own(self) -> Roster:
        if "coordinator" in self.sites:
            raise ValueError("roster.sites: no site can be called coordinator; messages carry that name")
        owners: dict[str, str] = {}
        for owner, key in self.everyone():
            try:
                PublicKey.from_hex(key)
            except ConfigError as e:
                raise ValueError(f"{owner}: {e}") from e
            if key in owners:
                raise ValueError(f"{owners[key]} and {owner} have the same key; every role of every site has its own")
            owners[key] = owner
        return self

    def everyone(self) -> Iterable[tuple[str, str]]:
        """Every (owner, public key), owners written as fields of the plan."""
        yield "roster.coordinator", self.coordinator
        for name, site in self.sites.items():
            yield f"roster.sites.{name}.key", site.key
            yield f"roster.sites.{name}.officer", site.officer
            for number, key in enumerate(site.co_officers, start=1):
                yield f"roster.sites.{name}.co_officers.{number}", key


def _no_repeats(field: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{field} names {value} twice")
        seen.add(value)


def _check_task(draft: Draft) -> None:
    """Relation labels where the kind has relations, and test sets that are asked for what the task has."""
    kind, relations = draft.task.kind, draft.task.relation_types
    if (kind in ("entities", "title")) != (not relations):
        raise ValueError(
            f'task.kind is "{kind}" with {len(relations)} relation types; '
            '"entities" goes without, "relations" and "both" need at least one'
        )
    asked = [("evaluation.public_tests", test) for test in draft.evaluation.public_tests]
    if draft.weighting.validation is not None:
        asked.append(("weighting.validation", draft.weighting.validation))
    for where, test in asked:
        if kind == "title" and (test.entity_types or test.relation_types):
            raise ValueError(f'{where}: {test.name} has labels; task.kind "title" asks for none')
        if kind != "title" and not test.entity_types:
            raise ValueError(f"{where}: {test.name} without entity_types; name what its notes annotate")


def _check_privacy(draft: Draft) -> None:
    """Nothing is promised that nothing holds, and no gradient depends on who else is in its batch."""
    dp, model, training = draft.dp, draft.model, draft.training
    given = [name for name in _PROMISES if getattr(dp, name) is not None]
    if dp.mode == "none":
        if given:
            raise ValueError(
                f'dp.mode is "none" but dp.{given[0]} is set: nothing would hold it; drop it or choose a mode'
            )
        return
    if dp.target_epsilon is None:
        raise ValueError(f'dp.mode is "{dp.mode}" without a target: set dp.target_epsilon, for instance to 8')
    exact = model.dtype == "float32" and model.quantisation == "none"
    if not exact and training.batch_size != 1:
        raise ValueError(
            f"dp.mode {dp.mode} with {model.dtype} weights (quantisation {model.quantisation}): in half precision a "
            "record's gradient changes with its batch by percents; set training.batch_size = 1, or model.dtype float32"
        )
    if dp.sampling == "record" and dp.unit == "record":
        raise ValueError('dp.sampling is "record" and so is dp.unit: a unit is one record; set sampling = "unit"')
    if dp.sampling == "record" and dp.max_records > MOST_RECORDS:
        raise ValueError(
            f"dp.max_records is {dp.max_records}; with sampling record at most {MOST_RECORDS} are accounted"
        )
    if dp.mode == "distributed" and "single" in draft.evaluation.baselines:
        raise ValueError(
            "dp.mode distributed with the baseline single: a site's own noise is a share of what protects it, so its "
            "own adapter cannot be scored; drop it"
        )
    if dp.mode == "distributed" and dp.colluders >= draft.secure.quorum:
        raise ValueError(
            f"dp.colluders is {dp.colluders} of {draft.secure.quorum} sites in a sum: nobody would be left whose noise "
            "counts; lower it, or raise secure.minimum_cohort"
        )
    if "central" in draft.evaluation.baselines:
        raise ValueError(
            f"dp.mode {dp.mode} with the baseline central: pooled notes would be trained on without privacy; drop it"
        )


_CANARY_TOKENS = 64
"""Prompt and answer have 42 characters, and no tokeniser makes more tokens of them than these and one at the end."""
_PROMISES = ("target_epsilon", "target_delta", "noise_multiplier")


class Draft(Strict):
    """A plan without a roster, as a person writes it."""

    format: Literal[1] = PLAN_FORMAT
    name: SiteName
    rounds: int = Field(2, ge=1, le=10_000)
    seed: int = Field(0, ge=0, lt=1 << 53)
    model: ModelSpec
    lora: LoraSpec = LoraSpec()
    task: TaskSpec
    training: TrainingSpec = TrainingSpec()
    dp: DpSpec = DpSpec()
    canaries: CanarySpec = CanarySpec()
    secure: SecureSpec = SecureSpec()
    weighting: WeightingSpec = WeightingSpec()
    server: ServerSpec = ServerSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    deadline_seconds: int = Field(3600, ge=1, le=7 * 86_400)
    """How long the coordinator waits for the replies of one exchange."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Draft:
        _no_repeats("task.entity_types", self.task.entity_types)
        _no_repeats("task.relation_types", self.task.relation_types)
        _no_repeats("lora.targets", self.lora.targets)
        _no_repeats("evaluation.baselines", self.evaluation.baselines)
        _no_repeats("evaluation.public_tests", [t.name for t in self.evaluation.public_tests])
        if not self.lora.targets:
            raise ValueError("lora.targets is empty; name at least one linear layer, for instance q_proj")
        _check_task(self)
        _check_privacy(self)
        check_strategy(self)
        if self.canaries.per_site and self.training.max_tokens < _CANARY_TOKENS:
            raise ValueError(
                f"training.max_tokens is {self.training.max_tokens}; a canary takes up to {_CANARY_TOKENS}: "
                "raise it, or set canaries.per_site = 0"
            )
        if self.secure.mode != "none" and self.secure.minimum_cohort < MASKED_COHORT_FLOOR:
            raise ValueError(
                f"secure.minimum_cohort is {self.secure.minimum_cohort}; a sum of fewer than "
                f"{MASKED_COHORT_FLOOR} sites hands each site's update to the others"
            )
        check_weights(self.weighting, self.secure.quorum)
        check_groups(self)
        tests = [t.name for t in self.evaluation.public_tests]
        check_scores(self.weighting, tests, self.secure.quorum, self.dp.mode)
        return self


class Plan(Draft):
    """A draft with its roster: complete, and the only thing that can be approved and run."""

    roster: Roster

    @model_validator(mode="after")
    def _artefacts_are_pinned(self) -> Plan:
        if self.model.weights_sha256 is None:
            raise ValueError("model.weights_sha256 is missing: a plan pins the base model's weights")
        dp = self.dp
        if dp.mode != "none" and (dp.noise_multiplier is None or dp.target_delta is None):
            raise ValueError("dp.noise_multiplier or dp.target_delta is missing: a plan says how much noise is added")
        if dp.mode == "distributed" and dp.dimension is None:
            raise ValueError("dp.dimension is missing: with distributed noise a plan says how many are trained")
        for test in self.evaluation.public_tests:
            if test.sha256 is None:
                raise ValueError(f"evaluation.public_tests: {test.name} has no sha256: a plan pins its test sets")
        validation = self.weighting.validation
        if validation is not None and (validation.sha256 is None or validation.examples is None):
            raise ValueError("weighting.validation has no sha256 or examples: a plan pins what weights are drawn from")
        return self

    @model_validator(mode="after")
    def _bins_are_of_sites(self) -> Plan:
        strangers = [name for name in self.weighting.size_bins if name not in self.roster.sites]
        if strangers:
            raise ValueError(f"weighting.size_bins names {strangers[0]}, which is not on the roster")
        return self

    @model_validator(mode="after")
    def _cohort_fits_the_roster(self) -> Plan:
        n, secure = len(self.roster.sites), self.secure
        check_rank_sites(self, self.roster.sites)
        check_group_sizes(self, n)
        check_encryption(self, n)
        if secure.quorum > n:
            raise ValueError(
                f"secure.minimum_cohort {secure.minimum_cohort} and threshold {secure.threshold} need {secure.quorum} "
                f"sites in every round; the roster has {n}"
            )
        floor = 2 * n // 3 + 1
        if secure.is_masked and secure.threshold < floor:
            raise ValueError(
                f"secure.threshold is {secure.threshold}; {n} sites need at least {floor} (more than two thirds), or a "
                f"lying coordinator could have two groups open different masks; set secure.threshold = {floor}"
            )
        check_colluders(self, n)
        check_bins(self.weighting, self.roster.sites)
        return self

    @property
    def fewest_in_a_sum(self) -> int:
        """No sum that is opened holds fewer sites: of a group where sites are weighed in groups, else of a round."""
        return fewest_in_a_sum(self, len(self.roster.sites))

    def canonical(self) -> bytes:
        """Canonical JSON (RFC 8785) of the whole plan."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON, 32 bytes: what approvals and every message of a run bind."""
        return hashlib.sha256(self.canonical()).digest()
