"""Whether batch-mates move a record's gradient on the machine that trains: measured, before anybody asks.

The noise has room for a unit that moves each of its mates by less than `mechanism.MOVED`. In which order a matrix
product is summed is up to a library and a processor, and may depend on how many rows there are; so it is looked at
where the training is to run, with its base, its layers, every rank that a site has and whole batches of its size, and
with made-up records: nothing here depends on notes. It takes about as long as four batches, for each rank.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsec.data.schema import Example
from fedsec.plan.model import Draft, Plan
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.private.buckets import bucket_width, group_by_bucket, records_together
from fedsec.training.private.loop import Private, PrivateRound, Tensors
from fedsec.training.private.mechanism import MOVED
from fedsec.training.ranks import spec_of_rank
from fedsec.training.round import Position
from fedsec.training.strategies import trained_names
from fedsec_secure.errors import ConfigError

if TYPE_CHECKING:
    from fedsec.training.base_model import BaseModel

_APART: Final = MOVED / 2
"""From a record alone to beside others, over its norm. A unit more changes with whom a record shares a batch: both
batches may be so far from the record alone, and so within `MOVED` of each other."""
_ALONE: Final = 3
"""Records of a batch that are also computed alone: those with the shortest answers, which have the fewest rows."""
_WORDS: Final = (2, 40)
"""Of a made-up record: a width that short notes have, and one of sentences."""
_ANSWERS: Final = ("7", "72", "725", "72 5 8 1 9 3 64 0 25")
"""One of them may make a record that is wider than the others: so there are as many records of each as fill a batch."""


def require_alone(base: BaseModel, plan: Plan | Draft) -> None:
    """Raise ConfigError where a plan lets records share a private batch, and here they move each other too far."""
    if plan.dp.mode != "local" or plan.training.batch_size == 1:
        return
    found = moved_by_mates(base, plan)
    if not found < _APART:  # what is not a number is too far as well
        raise ConfigError(
            "private training on this machine: expected a record's gradient to be the same alone and beside others, to "
            f"{float(_APART):g} of its norm, found that training.batch_size {plan.training.batch_size} moves it by "
            f"{found:.1e}: the plan's noise is not sized for that; set training.batch_size = 1"
        )


def moved_by_mates(base: BaseModel, plan: Plan | Draft) -> float:
    """The largest distance between a record's gradient alone and beside others, over its norm alone."""
    ranks = {plan.lora.rank, *plan.lora.site_ranks.values()}
    return max(_moved_at_rank(base, plan, rank) for rank in sorted(ranks))


def _moved_at_rank(base: BaseModel, plan: Plan | Draft, rank: int) -> float:
    # Both factors have gradients here, whatever is trained in which round. Dropout is by record, and new each time.
    strategy = plan.lora.strategy if plan.lora.strategy == "fed-sb" else "fedit"
    lora = spec_of_rank(plan.lora, rank).model_copy(update={"dropout": 0.0, "strategy": strategy})
    dp = plan.dp.model_copy(update={"unit": "record", "sampling": "unit", "sampling_rate": 2**-10})
    start, records = _started(initial_adapter(base, lora, 0)), list(_made_up(plan.training.batch_size))
    trained = {trained_names(plan.lora.strategy, start, number) for number in (0, 1)}
    run = PrivateRound(base, start, records, plan.training, lora, Private(dp), Position(0, 1))
    with run.started():
        lengths = [len(record) for record in run.encoded]
        batches = group_by_bucket(lengths, records_together(plan.training.batch_size))
        of_a_width: dict[int, list[int]] = {}
        for batch in batches:  # whole ones come first
            of_a_width.setdefault(bucket_width(lengths[batch[0]]), batch)
        return max(_moved(run, batch, trained) for batch in of_a_width.values() if len(batch) > 1)


def _moved(run: PrivateRound, batch: Sequence[int], trained: Collection[Sequence[str]]) -> float:
    """Over the norm of what a round trains: the rest is in no sum that is clipped, and would hide how far it moved."""

    def answer_tokens(i: int) -> int:
        return len(run.encoded[i]) - run.encoded[i].answer_start

    few = sorted(batch, key=answer_tokens)[:_ALONE]
    alone = {i: _row(_gradients(run, [i]), 0) for i in few}
    found = []
    for together in (few[:2], batch):
        gradients = _gradients(run, together)
        beside = {i: _row(gradients, row) for row, i in enumerate(together) if i in alone}
        found += [_distance(alone[i], row, names) for i, row in beside.items() for names in trained]
    return max(found)


def _gradients(run: PrivateRound, records: Sequence[int]) -> Tensors:
    (found,) = run.gradients.each([[i] for i in records])
    return found


def _row(gradients: Tensors, row: int) -> Tensors:
    return {name: tensor[row].double() for name, tensor in gradients.items()}


def _distance(one: Tensors, other: Tensors, names: Sequence[str]) -> float:
    apart = sum(float((one[name] - other[name]).square().sum()) for name in names)
    norm = sum(float(one[name].square().sum()) for name in names)
    found = math.sqrt(apart / norm) if norm else math.inf
    return math.inf if math.isnan(found) else found  # no number is larger than one that is none


def _started(adapter: AdapterState) -> AdapterState:
    """Factors that are zero at the start hide the other's gradient: they get values, which protect nothing."""
    numbers = np.random.default_rng(0)
    return AdapterState(
        {
            name: tensor if tensor.any() else numbers.normal(0, 0.02, tensor.shape).astype(np.float32)
            for name, tensor in adapter.items()
        }
    )


def _made_up(batch_size: int) -> Iterator[Example]:
    for words in _WORDS:
        for number, answer in enumerate(islice(cycle(_ANSWERS), len(_ANSWERS) * records_together(batch_size))):
            text, name = " ".join(str((number + word) % 10) for word in range(words)), f"{words}-{number}"
            yield Example(
                example_id=name, document_id=name, patient_id=name, text=text, offset=0, entities=(), relations=None,
                prompt=text, answer=answer,
            )  # fmt: skip
