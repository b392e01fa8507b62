"""From examples to padded batches: the prompt, the answer, end-of-sequence, and which positions carry loss.

Prompts are plain text (no chat template). Everything here is a function of its arguments: order comes from a seed.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsec.data.schema import Example
from fedsec.data.templates import flat
from fedsec_secure.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from fedsec.training.base_model import BaseModel

_WORD = re.compile(r"\S+")
_POOL_BATCHES = 8
"""Batches are cut from pools of so many, sorted by length: less padding, while the order stays random overall."""


@dataclass(frozen=True)
class Encoded:
    """One example as token ids; ``ids[answer_start:]`` is the answer with end-of-sequence."""

    ids: tuple[int, ...]
    answer_start: int
    truncated: bool

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids of b records.

    ``input_ids`` and ``attention_mask``: int64[b, t]. For the a answer tokens of all records together: ``rows`` and
    ``columns``, int64[a], the positions whose output predicts them; ``targets``, int64[a].
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor

    @property
    def records(self) -> int:
        """Number of records b."""
        return int(self.input_ids.shape[0])

    @property
    def answer_tokens(self) -> int:
        """Number of answer tokens a, end-of-sequence included."""
        return int(self.targets.numel())


def encode(tokenizer: PreTrainedTokenizerBase, example: Example, max_tokens: int) -> Encoded:
    """Tokenise prompt + answer + end-of-sequence into at most ``max_tokens`` tokens.

    What is too long loses words from the end of the note's text inside the prompt; the instruction around it and
    the answer stay whole. ConfigError where even an empty text does not fit.
    """
    prompt = _ids(tokenizer, example.prompt)
    answer = answer_ids(tokenizer, example)
    if len(prompt) + len(answer) <= max_tokens:
        return Encoded((*prompt, *answer), len(prompt), False)
    prompt = _shortened(tokenizer, example, max_tokens - len(answer))
    return Encoded((*prompt, *answer), len(prompt), True)


def require_room(base: BaseModel, examples: Iterable[Example], max_tokens: int, what: str) -> None:
    """ConfigError for the first example that `encode` would refuse, or that has a token which the base has not: only
    those steps would fail that draw it, which tells of it. ``what``: whose they are.
    """
    tokens = int(base.model.get_input_embeddings().weight.shape[0])
    try:
        for example in examples:
            if max(encode(base.tokenizer, example, max_tokens).ids) >= tokens:
                raise ConfigError(
                    f"example {example.example_id}: expected tokens below {tokens}, of which the base model has "
                    "embeddings, found one above: its text holds a special token's name that only the tokenizer "
                    "knows; write it otherwise"
                )
    except ConfigError as e:
        raise ConfigError(f"{what}: {e}") from e


def encode_prompt(tokenizer: PreTrainedTokenizerBase, example: Example, max_tokens: int) -> list[int]:
    """The prompt's token ids, shortened by the rule of `encode` where they exceed ``max_tokens``."""
    prompt = _ids(tokenizer, example.prompt)
    return prompt if len(prompt) <= max_tokens else _shortened(tokenizer, example, max_tokens)


def answer_ids(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[int]:
    """Token ids of the answer and end-of-sequence."""
    return [*_ids(tokenizer, example.answer), int(tokenizer.eos_token_id)]


def derive(seed_material: bytes, label: str, *numbers: int) -> bytes:
    """32 bytes for non-protective randomness (order, dropout), separated by label and numbers."""
    h = hashlib.sha256(b"fedsec/training-seed/v1\0")
    for part in (seed_material, label.encode("ascii"), *(number.to_bytes(8, "big") for number in numbers)):
        h.update(len(part).to_bytes(4, "big") + part)
    return h.digest()


def round_indices(count: int, per_round: int | None, round_index: int, seed_material: bytes) -> list[int]:
    """Which of a site's ``count`` examples round ``round_index`` (from 0) uses.

    They are shuffled once by the seed; each round goes on where the last one stopped, and wraps round.
    """
    if count < 1:
        raise ConfigError("training needs at least one example, found none")
    order = list(range(count))
    _generator(derive(seed_material, "examples")).shuffle(order)
    share = count if per_round is None else per_round
    return [order[(round_index * share + i) % count] for i in range(share)]


def batch_plan(lengths: Sequence[int], batch_size: int, epochs: int, seed: bytes) -> list[list[int]]:
    """The batches of a round, in order, as lists of positions into ``lengths``.

    Each epoch uses every position once: shuffled, cut into pools that are sorted by length and cut into batches, and
    the batches shuffled. There are ceil(len / batch_size) batches an epoch.
    """
    batches: list[list[int]] = []
    for epoch in range(epochs):
        generator = _generator(derive(seed, "epoch", epoch))
        order = list(range(len(lengths)))
        generator.shuffle(order)
        cut: list[list[int]] = []
        pool = batch_size * _POOL_BATCHES
        for start in range(0, len(order), pool):
            members = sorted(order[start : start + pool], key=lambda i: (lengths[i], i))
            cut += [members[i : i + batch_size] for i in range(0, len(members), batch_size)]
        generator.shuffle(cut)
        batches += cut
    return batches


def collate(records: Sequence[Encoded], pad_token: int) -> Batch:
    """Pad records on the right to the longest of them."""
    import torch

    width = max(len(record) for record in records)
    ids = [[*record.ids, *[pad_token] * (width - len(record))] for record in records]
    mask = [[1] * len(record) + [0] * (width - len(record)) for record in records]
    where = [(row, at) for row, record in enumerate(records) for at in range(record.answer_start, len(record))]
    rows, at = (torch.tensor(column, dtype=torch.int64) for column in zip(*where, strict=True))
    input_ids = torch.tensor(ids, dtype=torch.int64)
    return Batch(input_ids, torch.tensor(mask, dtype=torch.int64), rows, at - 1, input_ids[rows, at])


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _shortened(tokenizer: PreTrainedTokenizerBase, example: Example, budget: int) -> list[int]:
    """The prompt with as many words of the note's text, from its start, as fit ``budget`` tokens."""
    text = flat(example.text)
    head, found, tail = example.prompt.partition(text) if text else ("", "", "")
    if not found:
        raise ConfigError(
            f"example {example.example_id}: longer than training.max_tokens, and its prompt does not quote its text, "
            "so there is nothing that may be cut; raise training.max_tokens"
        )
    ends = [0, *(word.end() for word in _WORD.finditer(text))]
    low, high = -1, len(ends)  # the text up to ends[low] fits (once low >= 0), up to ends[high] it does not
    best: list[int] = []
    while high - low > 1:
        middle = (low + high) // 2
        ids = _ids(tokenizer, head + text[: ends[middle]] + tail)
        if len(ids) <= budget:
            low, best = middle, ids
        else:
            high = middle
    if low < 0:
        raise ConfigError(
            f"example {example.example_id}: instruction and answer alone exceed training.max_tokens "
            f"({max(budget, 0)} tokens are left for the prompt); raise it, or use shorter windows"
        )
    return best


def _generator(seed: bytes) -> random.Random:
    return random.Random(int.from_bytes(seed, "big"))  # noqa: S311 - order of examples, protects nothing
