"""A conditional random field (Lafferty et al. 2001) on words: it stands in for the paper's fine-tuned BERT.

CRFsuite through python-crfsuite, with the usual features of clinical entity recognition before neural models. Mentions
only: it says nothing about relations.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cells.loop import FailedError

from fedsec.data.schema import Entity, Example
from fedsec.data.templates import make_answer
from fedsec.evaluation.evaluate import score_answers
from fedsec.evaluation.scores import Scores
from fedsec.site.work import TestSet

_TOKEN: Final = re.compile(r"\w+|[^\w\s]")
_SETTINGS: Final = {"c1": 0.1, "c2": 0.01, "max_iterations": 100, "feature.possible_transitions": True}


class Token(NamedTuple):
    """A word or a sign, with its place in the text."""

    text: str
    start: int
    end: int


def tokens(text: str) -> list[Token]:
    """Words and single signs."""
    return [Token(m.group(), m.start(), m.end()) for m in _TOKEN.finditer(text)]


def tags(words: Sequence[Token], entities: Sequence[Entity]) -> list[str]:
    """BIO tags. Of mentions that overlap the longest is tagged; a word belongs to a mention that it overlaps."""
    found = ["O"] * len(words)
    for entity in sorted(entities, key=lambda e: (e.start - e.end, e.start)):
        inside = [i for i, word in enumerate(words) if word.start < entity.end and entity.start < word.end]
        if inside and all(found[i] == "O" for i in inside):
            for place, i in enumerate(inside):
                found[i] = ("I-" if place else "B-") + entity.type
    return found


def mentions(words: Sequence[Token], tagged: Sequence[str], text: str) -> list[Entity]:
    """The mentions that BIO tags say; an I that continues nothing begins one."""
    spans: list[tuple[str, int, int]] = []
    before = "O"
    for word, tag in zip(words, tagged, strict=True):
        if tag != "O":
            label = tag[2:]
            if tag.startswith("I-") and before[2:] == label:
                spans[-1] = (label, spans[-1][1], word.end)
            else:
                spans.append((label, word.start, word.end))
        before = tag
    return [Entity(id=f"T{n}", type=t, start=s, end=e, text=text[s:e]) for n, (t, s, e) in enumerate(spans)]


def features(words: Sequence[Token]) -> list[dict[str, str | bool]]:
    """Of every word: itself, its ends, its shape, and the same of its neighbours."""
    own = [_of(word.text) for word in words]
    found = []
    for place, here in enumerate(own):
        around = {
            f"{offset:+d}:{name}": value
            for offset in (-2, -1, 1, 2)
            if 0 <= place + offset < len(own)
            for name, value in own[place + offset].items()
            if name in ("lower", "shape", "suffix3")
        }
        found.append({**here, **around, "first": place == 0, "last": place == len(own) - 1})
    return found


def _of(word: str) -> dict[str, str | bool]:
    shape = re.sub(r"\d", "9", re.sub(r"[a-z]", "x", re.sub(r"[A-Z]", "X", word)))
    lower = word.lower()
    return {
        "lower": lower,
        "shape": re.sub(r"(.)\1+", r"\1", shape),
        "prefix3": lower[:3],
        "suffix3": lower[-3:],
        "suffix4": lower[-4:],
        "digit": any(c.isdigit() for c in word),
    }


class Crf:
    """A trained field."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """FailedError where python-crfsuite is not installed."""
        try:
            import pycrfsuite
        except ImportError:
            raise FailedError("install the dependency group `paper` (python-crfsuite) for this baseline") from None
        trainer = pycrfsuite.Trainer(algorithm="lbfgs", params=_SETTINGS, verbose=False)
        for example in examples:
            words = tokens(example.text)
            if words:
                trainer.append(features(words), tags(words, example.entities))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            trainer.train(str(path))
            self._model = path.read_bytes()  # the tagger reads in it and keeps no copy
        self._tagger = pycrfsuite.Tagger()
        self._tagger.open_inmemory(self._model)

    def scores(self, test: TestSet) -> Scores:
        """Entities of a test set, scored by the same rules as a model's answers."""
        return score_answers(
            [self._answer(example.text) for example in test.examples], test.examples, test.spec.entity_types, None
        )

    def _answer(self, text: str) -> str:
        words = tokens(text)
        return make_answer(mentions(words, self._tagger.tag(features(words)) if words else [], text), ())
