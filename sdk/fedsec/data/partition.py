"""Splits documents into sites: by corpus, by patient, and by Dirichlet skew. No patient ever stands at two sites."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from fedsec.data.schema import Document
from fedsec_secure.errors import ConfigError

DocumentKey = Callable[[Document], str]

_DRAWS = 1000
"""Dirichlet draws that are tried until every site has a patient."""


def by_corpus(corpora: Mapping[str, Sequence[Document]]) -> dict[str, list[Document]]:
    """One site a corpus. Documents of a patient that an earlier corpus (by name) has already are dropped.

    Use ``shared_document_ids`` first where training and test sets of different corpora meet.
    """
    seen: set[str] = set()
    sites: dict[str, list[Document]] = {}
    for name in sorted(corpora):
        sites[name] = [d for d in corpora[name] if d.patient_id not in seen]
        seen |= {d.patient_id for d in corpora[name]}
        _require_documents(name, sites[name])
    return sites


def by_patient(documents: Iterable[Document], sites: Sequence[str], seed: int) -> dict[str, list[Document]]:
    """Patients shuffled by ``seed`` and dealt in turn: sites of nearly equal numbers of patients, all alike."""
    patients = _patients(documents)
    _require_patients(patients, sites)
    order = sorted(patients)
    random.Random(f"fedsec partition 1|{seed}").shuffle(order)  # noqa: S311 - a split, not a secret
    return {
        site: [document for patient in order[index :: len(sites)] for document in patients[patient]]
        for index, site in enumerate(sites)
    }


def by_dirichlet(
    documents: Iterable[Document],
    sites: Sequence[str],
    *,
    alpha: float,
    seed: int,
    key: DocumentKey | None = None,
) -> dict[str, list[Document]]:
    """Sites whose mixtures of ``key`` differ: each value is shared out by Dirichlet(alpha) (Hsu et al. 2019).

    Args:
        documents: all documents.
        sites: names, in order.
        alpha: small is skewed (0.1: nearly one value a site), large is even (100).
        seed: same seed, same split.
        key: value of a document; None: its most frequent entity type. A patient counts under the most frequent value of
            the patient's documents.

    Raises:
        ConfigError: ``alpha`` is not positive, too few patients, or no draw gave every site a patient.
    """
    if not alpha > 0:
        raise ConfigError(f"the Dirichlet parameter alpha must be above 0, not {alpha}")
    patients = _patients(documents)
    _require_patients(patients, sites)
    by_value: defaultdict[str, list[str]] = defaultdict(list)
    for patient in sorted(patients):
        by_value[_most_frequent(map(key or main_entity_type, patients[patient]))].append(patient)
    generator = np.random.default_rng([0xFED5EC, seed])
    for _ in range(_DRAWS):
        dealt = _deal(by_value, len(sites), alpha, generator)
        if all(dealt):
            return {
                site: [d for patient in some for d in patients[patient]]
                for site, some in zip(sites, dealt, strict=True)
            }
    raise ConfigError(
        f"no draw with alpha {alpha} gave each of {len(sites)} sites one of {len(patients)} patients; raise alpha"
    )


def main_entity_type(document: Document) -> str:
    """The document's most frequent entity type (on a tie the first by name); empty if it has no mention."""
    return _most_frequent(e.type for e in document.entities)


def _deal(
    by_value: Mapping[str, Sequence[str]], sites: int, alpha: float, generator: np.random.Generator
) -> list[list[str]]:
    dealt: list[list[str]] = [[] for _ in range(sites)]
    for value in sorted(by_value):
        order = generator.permutation(len(by_value[value]))
        shares = generator.dirichlet(np.full(sites, alpha))
        ends = np.rint(np.cumsum(shares)[:-1] * len(order)).astype(int)
        for site, part in enumerate(np.split(order, ends)):
            dealt[site].extend(by_value[value][i] for i in part)
    return dealt


def _patients(documents: Iterable[Document]) -> dict[str, list[Document]]:
    patients: defaultdict[str, list[Document]] = defaultdict(list)
    for document in documents:
        patients[document.patient_id].append(document)
    return dict(patients)


def _most_frequent(values: Iterable[str]) -> str:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value)) if counts else ""


def _require_patients(patients: Mapping[str, object], sites: Sequence[str]) -> None:
    if len(set(sites)) != len(sites) or not sites:
        raise ConfigError("sites need distinct names, at least one")
    if len(patients) < len(sites):
        raise ConfigError(f"{len(patients)} patients do not fill {len(sites)} sites; use fewer sites")


def _require_documents(name: str, documents: Sequence[Document]) -> None:
    if not documents:
        raise ConfigError(f"site {name} has no documents left")
