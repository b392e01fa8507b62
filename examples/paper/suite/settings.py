"""How large the suite is, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PLAN = HERE / "plan.toml"
LABEL_MAP = HERE.parent / "cdr_sites" / "label_map.toml"
TRAIN_SECONDS, ANSWER_SECONDS = 0.6, 1.0
"""CPU seconds a sentence on two slow cores: one of training, and one answered greedily. For estimates only."""


@dataclass(frozen=True)
class Scale:
    """How large the suite is: the same in all its experiments."""

    records: int
    """Sentences of a site."""
    pool: int
    """Sentences of one corpus that are dealt to sites which are all alike."""
    counts: tuple[int, ...]
    """Into so many sites."""
    new_records: tuple[int, ...]
    """Sentences of a site that comes later."""
    test: int
    """Sentences of each test set."""
    zero_shot: int
    """Of them for the untrained model, which rambles on."""
    validation: int
    """Sentences that influence weights are drawn from; the published number is 5."""
    validation_pool: int
    """Sentences that such sets are resampled from."""
    validation_sizes: tuple[int, ...]
    resamples: int
    abstracts: int
    """Abstracts of a site that learns to write titles; they are whole and long."""
    titles: int
    """Abstracts of each test set of titles."""
    more_rounds: int
    """In place of the plan's, for the same sentences."""
    changes: tuple[str, ...] = ()
    """Of the plan."""


FULL = Scale(
    records=400,
    pool=2000,
    counts=(3, 5, 10),
    new_records=(10, 20, 50, 100),
    test=50,
    zero_shot=20,
    validation=5,
    validation_pool=60,
    validation_sizes=(1, 5, 10, 20),
    resamples=2000,
    abstracts=120,
    titles=30,
    more_rounds=10,
)
TINY = Scale(
    records=8,
    pool=40,
    counts=(3, 5),
    new_records=(2, 4),
    test=4,
    zero_shot=2,
    validation=2,
    validation_pool=6,
    validation_sizes=(1, 5),
    resamples=200,
    abstracts=8,
    titles=2,
    more_rounds=4,
    changes=(
        "model.base=tiny-random",
        "lora.rank=2",
        'lora.targets=["q_proj", "v_proj"]',
        "evaluation.max_new_tokens=4",
        'task.entity_types=["Drug", "Dose", "Problem", "Procedure", "Test", "Anatomy"]',
        'task.relation_types=["treats", "causes", "affects"]',
    ),
)
"""Random weights and invented notes: learns nothing, goes through everything."""
