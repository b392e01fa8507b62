"""The price of a private round's step as a site runs it: drawing, buckets, clipping, noise, AdamW, over a plain step's.

Eight invented notes of a hospital, of whatever lengths they have, one step over all of them: `train_round`,
`train_private_round` (everyone is drawn), and `noisy_integers`' own two steps, which compute each note by itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.rows import Row
from fedsec.data.schema import Example
from fedsec.data.synthetic import STYLES, entity_types, hospital, make_site, relation_types
from fedsec.data.templates import make_examples
from fedsec.plan.specs import DpSpec, LoraSpec, TaskSpec, TrainingSpec
from fedsec.privacy.distributed import DistributedStep
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.base_model import BaseModel
from fedsec.training.loop import train_round
from fedsec.training.lora import linear_names
from fedsec.training.private.distributed import take_share
from fedsec.training.private.loop import Private, PrivateRound, train_private_round
from fedsec.training.round import Position

NOTES = 8
_SITES, _COLLUDERS, _GRID = 3, 1, 1 << 16


class Site:
    """Eight notes, an adapter of rank 8 on every linear layer, and a step over them in three ways."""

    def __init__(self, base: BaseModel) -> None:
        self.base, style = base, STYLES[0]
        task = TaskSpec(kind="both", entity_types=entity_types(), relation_types=relation_types())
        asked = hospital(style)
        documents = make_site(style, "train", NOTES, 0)
        self.notes: list[Example] = make_examples(documents, task, asked.entity_types, asked.relation_types)[:NOTES]
        self.lora = LoraSpec(rank=8, alpha=16.0, dropout=0.0, targets=tuple(linear_names(base)))
        self.start: AdapterState = initial_adapter(base, self.lora, 0)
        self.training = TrainingSpec(
            batch_size=NOTES, max_tokens=512, threads=1, epochs=1, learning_rate=1e-6, warmup_fraction=0.0
        )
        self.dp = DpSpec(
            mode="local",
            unit="record",
            target_epsilon=8.0,
            noise_multiplier=1.0,
            sampling_rate=1.0,
            steps=1,
            expected_batch=NOTES,
        )

    def plain(self) -> None:
        train_round(
            self.base,
            self.start,
            self.notes,
            self.training,
            self.lora,
            round_index=0,
            rounds=1,
            seed_material=b"0" * 32,
        )

    def private(self) -> None:
        train_private_round(
            self.base,
            self.start,
            self.notes,
            self.training,
            self.lora,
            private=Private(self.dp),
            round_index=0,
            rounds=1,
        )

    def distributed(self) -> None:
        alone = self.training.model_copy(update={"batch_size": 1})
        run = PrivateRound(self.base, self.start, self.notes, alone, self.lora, Private(self.dp), Position(0, 1))
        with run.started():
            dimension = sum(p.numel() for p in run.trained.values())
            take_share(run, DistributedStep(1.0, 1.0, self.dp.clipping_norm, _GRID, dimension, _SITES, _COLLUDERS))


def round_rows(base: BaseModel, repeats: int) -> list[Row]:
    """Medians over turns of each way's CPU time over the plain one's, warm; and the plain one's seconds."""
    site = Site(base)
    ways: dict[str, Callable[[], None]] = {
        "plain": site.plain,
        "local noise": site.private,
        "distributed noise": site.distributed,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name in list(ways) if turn % 2 else list(ways)[::-1]:
            began = time.process_time()
            ways[name]()
            taken[name].append(time.process_time() - began)
    plain = taken["plain"][1:]
    rows = [Row(f"a site's plain step, {NOTES} notes", min(plain), "CPU s")]
    for name in list(ways)[1:]:
        ratio = statistics.median(a / b for a, b in zip(taken[name][1:], plain, strict=True))
        rows.append(Row(f"a site's step with {name} over its plain one", round(ratio, 4), "x CPU time"))
    return rows
