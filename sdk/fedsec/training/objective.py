"""The training objective: cross entropy of answer tokens, kept apart by record.

The output head (49,152 wide for SmolLM2) costs more than the layers below it on short notes, so it runs at the
positions that predict an answer token and nowhere else. Losses come per record: the loop averages over a batch's
tokens, and a private optimiser needs each record's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsec.training.batches import Batch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from fedsec.training.base_model import BaseModel


@dataclass(frozen=True)
class RecordLosses:
    """``sums``: float32[b], each record's summed negative log-likelihood in nats; ``tokens``: int64[b], of how many."""

    sums: torch.Tensor
    tokens: torch.Tensor

    def token_mean(self) -> torch.Tensor:
        """Mean over all answer tokens of the batch, a scalar: what non-private training minimises."""
        return self.sums.sum() / self.tokens.sum()

    def per_record(self) -> torch.Tensor:
        """Each record's mean over its own answer tokens, float32[b]: independent of the others in the batch."""
        return self.sums / self.tokens


def record_losses(base: BaseModel, batch: Batch, least_rows: int = 0) -> RecordLosses:
    """Forward pass with whatever LoRA state the model holds; differentiable. ``least_rows``: as in `answer_logits`."""
    import torch

    logits = answer_logits(base, batch, least_rows)
    losses = torch.nn.functional.cross_entropy(logits.float(), batch.targets.to(logits.device), reduction="none")
    rows = batch.rows.to(losses.device)
    sums = torch.zeros(batch.records, dtype=losses.dtype, device=losses.device).index_add(0, rows, losses)
    return RecordLosses(sums, torch.bincount(rows, minlength=batch.records))


def answer_logits(base: BaseModel, batch: Batch, least_rows: int = 0) -> torch.Tensor:
    """Logits at the positions that predict answer tokens, [a, vocabulary].

    ``least_rows``: where a is less, the head is given rows of zeros besides, whose logits are dropped. Libraries sum
    products of very few rows in another order, and so a row's last digits tell how many there are.
    """
    import torch

    model = base.model
    device = model.get_input_embeddings().weight.device
    inputs, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
    if not _head_is_plain(base):
        full: torch.Tensor = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits
        return full[batch.rows, batch.columns]
    hidden = model.get_decoder()(input_ids=inputs, attention_mask=mask, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    rows = hidden[batch.rows, batch.columns]
    if len(rows) < least_rows:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, least_rows - len(rows)))
    logits: torch.Tensor = head(rows)[: batch.answer_tokens]
    return logits


def _head_is_plain(base: BaseModel) -> bool:
    """Whether logits are the output embeddings of the last hidden state and nothing else (no soft cap, no scale)."""
    if base.lora.plain_head is None:
        base.lora.plain_head = _probe_head(base.model)
    return base.lora.plain_head


def _probe_head(model: PreTrainedModel) -> bool:
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ids = torch.arange(8, device=model.get_input_embeddings().weight.device).unsqueeze(0)
            hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            expected = model(input_ids=ids, use_cache=False).logits
            found = model.get_output_embeddings()(hidden)
            return bool(torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-2))
    except AttributeError:  # an architecture without these accessors
        return False
    finally:
        model.train(training)
