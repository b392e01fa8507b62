"""The systems that are compared, by name: the adapter of each, trained where it was not yet."""

from __future__ import annotations

from typing import Final

from fedsec.training.adapter import AdapterState
from suite.federated import INFLUENCE, UNIFORM, Federation, deal_examples, federate, records_of, site_spec
from suite.lab import Lab
from suite.notes import FOUR

ZERO_SHOT: Final = "zero-shot"
SINGLE: Final = "single-site"
CENTRAL: Final = "centralised"
FED, PLUS = "Fed-MedLoRA", "Fed-MedLoRA+"
RULES: Final = {FED: UNIFORM, PLUS: INFLUENCE}
CRF: Final = "conditional random field"
SINGLE_CRF, POOLED_CRF = f"{CRF}, single-site", f"{CRF}, centralised"


def single(lab: Lab, site: str, seed: int, deal: str = FOUR) -> AdapterState:
    """One site alone, with the federation's steps and its first round."""
    notes = lab.notes.deal(deal, seed)
    documents, section = notes[site]
    examples, spec = lab.examples(documents, section), site_spec(lab, records_of(notes))
    adapter = lab.initial(seed)
    for index in range(lab.draft.rounds):
        adapter = lab.train(adapter, examples, site, round_index=index, rounds=lab.draft.rounds, seed=seed, spec=spec)
    return adapter


def central(lab: Lab, seed: int, deal: str = FOUR) -> AdapterState:
    """All notes pooled, with as many steps as all sites take together."""
    notes = lab.notes.deal(deal, seed)
    pooled = [example for some in deal_examples(lab, notes).values() for example in some]
    spec = site_spec(lab, records_of(notes) * len(notes))
    adapter = lab.initial(seed)
    for index in range(lab.draft.rounds):
        adapter = lab.train(
            adapter, pooled, "pooled notes", round_index=index, rounds=lab.draft.rounds, seed=seed, spec=spec
        )
    return adapter


def federated(lab: Lab, system: str, seed: int, deal: str = FOUR) -> Federation:
    """The run of `FED` or `PLUS`."""
    return federate(lab, deal, RULES[system], seed)


def adapters(lab: Lab, system: str, seed: int, deal: str = FOUR) -> dict[str, AdapterState | None]:
    """What a system comes to, by the name of its rows: a single-site one for every site."""
    if system == ZERO_SHOT:
        return {ZERO_SHOT: None}
    if system == SINGLE:
        return {f"{SINGLE}: {site}": single(lab, site, seed, deal) for site in lab.notes.sites}
    if system == CENTRAL:
        return {CENTRAL: central(lab, seed, deal)}
    return {system: federated(lab, system, seed, deal).adapter}
