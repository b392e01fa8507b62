"""Physical batches in which a record's numbers do not depend on its batch-mates.

A record that is padded to the longest of its batch gets other roundings with other mates (2.7e-6 of its gradient in
float32). So each record is padded to a width that is a function of its own length, and batches hold one width only.
Layers then see `STEP` rows and more, and the head, which sees the answers' tokens alone, is given `LEAST_ROWS`:
products of three rows or fewer are summed in another order, and where its head had two SmolLM2-135M moved by 1.3e-4.
On a CPU in float32 a record's gradient is then the same bits whatever its mates hold, for a batch of one shape. With
another number of mates, or in another place, matrix products may be cut differently: on one thread SmolLM2-135M and the
tests' model gave the same bits all the same, on two threads SmolLM2-135M moved by up to 2.3e-6 of the gradient's norm.
The tests hold the first exactly and the second to 1e-6 on one thread; `mates` looks where the training is to run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fedsec.training.batches import Batch, Encoded, collate
from fedsec_secure.errors import LocalMisuseError

STEP = 32
"""Widths are multiples of so many tokens: some 16 tokens of padding a record, and few widths."""
LEAST_ROWS = STEP
"""Rows of the head, at least, where records share batches: as many as the layers below have for a record alone."""
MOST_TOGETHER = 64
"""Records of a physical batch, at most, whatever a plan says: so many are looked at before (`mates`), and no more."""


def bucket_width(length: int) -> int:
    """The width that a record of ``length`` tokens is padded to: the next multiple of `STEP` *above* its length.

    At least one position is padding: attention takes another path where a whole batch has none, and then a record's
    roundings would tell whether a mate is shorter.
    """
    if length < 1:
        raise LocalMisuseError(f"length of a record: expected at least 1 token, found {length}")
    return (length // STEP + 1) * STEP


def records_together(batch_size: int) -> int:
    """How many records a private step computes at a time, where the plan says ``batch_size``."""
    return min(batch_size, MOST_TOGETHER)


def group_by_bucket(lengths: Sequence[int], physical_batch: int) -> list[list[int]]:
    """Positions into ``lengths`` in batches of one width and at most ``physical_batch`` records, short ones first."""
    if physical_batch < 1:
        raise LocalMisuseError(f"physical batch: expected at least 1 record, found {physical_batch}")
    widths: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        widths.setdefault(bucket_width(length), []).append(position)
    return [
        members[start : start + physical_batch]
        for _, members in sorted(widths.items())
        for start in range(0, len(members), physical_batch)
    ]


def collate_bucket(records: Sequence[Encoded], pad_token: int) -> Batch:
    """Records of one bucket, padded on the right to its width; LocalMisuseError where their widths differ."""
    import torch

    widths = {bucket_width(len(record)) for record in records}
    if len(widths) != 1:
        raise LocalMisuseError(f"a physical batch has one width, found {sorted(widths)}; use group_by_bucket")
    batch = collate(records, pad_token)
    missing = (0, widths.pop() - int(batch.input_ids.shape[1]))
    return dataclasses.replace(
        batch,
        input_ids=torch.nn.functional.pad(batch.input_ids, missing, value=pad_token),
        attention_mask=torch.nn.functional.pad(batch.attention_mask, missing, value=0),
    )
