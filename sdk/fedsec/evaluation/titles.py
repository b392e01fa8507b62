"""Scores of written titles: ROUGE-L (Lin 2004, the longest common subsequence of words) and the loss of the true ones.

By torchmetrics, without stemming: lower case, letters and digits only. It gives what Google's ``rouge-score`` gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedsec.data.schema import Example
from fedsec.data.titles import title_of
from fedsec.evaluation.scores import ExampleCounts, Overlap, Scores, TitleScores
from fedsec_secure.errors import ConfigError


def rouge_l(written: str, true: str) -> Overlap:
    """ROUGE-L of one title. All three are 0 where the two have no word in common."""
    from torchmetrics.functional.text import rouge_score

    found = rouge_score([written], [true], rouge_keys="rougeL")
    return Overlap(**{part: float(found[f"rougeL_{part}"]) for part in ("precision", "recall", "fmeasure")})


def score_titles(answers: Sequence[str], examples: Sequence[Example], loss: float, seconds: float = 0.0) -> Scores:
    """Score one answer an example against the example's own title.

    Args:
        answers: what the model wrote; the first line counts.
        examples: in the same order.
        loss: nats per token of the true titles, under the same adapter.
        seconds: what writing them took.

    Raises:
        ConfigError: unequal or no answers.
    """
    if len(answers) != len(examples) or not examples:
        raise ConfigError(f"scoring needs one answer an example, found {len(answers)} for {len(examples)}")
    overlaps = [rouge_l(title_of(a), e.answer) for a, e in zip(answers, examples, strict=True)]
    counts = tuple(
        ExampleCounts(example_id=e.example_id, entities={}, relations={}, title=o)
        for e, o in zip(examples, overlaps, strict=True)
    )
    mean = {
        part: math.fsum(getattr(o, part) for o in overlaps) / len(overlaps)
        for part in ("precision", "recall", "fmeasure")
    }
    return Scores(
        examples=len(examples),
        entities=None,
        relations=None,
        titles=TitleScores(rouge_l=Overlap(**mean), loss=loss),
        ungrounded=0,
        malformed_lines=sum(not title_of(a) for a in answers),
        seconds=seconds,
        counts=counts,
    )
