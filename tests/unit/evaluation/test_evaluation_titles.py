from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.data.schema import Document
from fedsec.data.titles import title_examples
from fedsec.evaluation.scores import Scores, paired_bootstrap, set_macro_f1
from fedsec.evaluation.titles import rouge_l, score_titles
from fedsec_secure.errors import ConfigError

TRUE = ("Colic after belvapril", "A case of renal spasm", "Zostatin in children")
EXAMPLES, _ = title_examples(
    [Document(document_id=f"n{i}", patient_id=f"p{i}", text="It was given.", title=t) for i, t in enumerate(TRUE)]
)


def test_hand_computed_overlaps() -> None:
    # The longest common subsequence of the two is "after belvapril": 2 of 4 words written, 2 of 3 true ones.
    found = rouge_l("After some belvapril: spasm", TRUE[0])
    assert (found.precision, found.recall) == pytest.approx((2 / 4, 2 / 3), abs=1e-6)
    assert found.fmeasure == pytest.approx(4 / 7, abs=1e-6)
    assert rouge_l("COLIC, after belvapril!", TRUE[0]).fmeasure == pytest.approx(1)
    assert rouge_l("belvapril after colic", TRUE[0]).recall == pytest.approx(1 / 3, abs=1e-6)
    assert rouge_l("", TRUE[0]).fmeasure == rouge_l("?!", TRUE[0]).fmeasure == 0


words = st.text("abcd", max_size=7)


@given(words, words)
def test_it_is_the_longest_common_subsequence(written, true) -> None:
    longest = [[0] * (len(true) + 1) for _ in range(len(written) + 1)]
    for i, one in enumerate(written):
        for j, other in enumerate(true):
            longest[i + 1][j + 1] = longest[i][j] + 1 if one == other else max(longest[i][j + 1], longest[i + 1][j])
    common, both = longest[-1][-1], len(written) + len(true)
    assert rouge_l(" ".join(written), " ".join(true)).fmeasure == pytest.approx(
        2 * common / both if common else 0, abs=1e-6
    )


def test_scores_are_means_over_the_first_lines() -> None:
    scores = score_titles([f"{TRUE[0]}\nText: more", "\nspasm", ""], EXAMPLES, 1.5, 3.0)
    assert scores.titles is not None
    expected = (1 + rouge_l("spasm", TRUE[1]).fmeasure + 0) / 3
    assert scores.f1("titles", "strict") == scores.titles.rouge_l.fmeasure == pytest.approx(expected)
    assert (scores.titles.loss, scores.seconds, scores.malformed_lines, scores.examples) == (1.5, 3.0, 1, 3)
    assert scores.entities is None
    assert scores.f1("entities", "strict") is None
    assert scores.figures() == {"titles ROUGE-L": pytest.approx(expected)}
    assert Scores.model_validate_json(scores.model_dump_json()) == scores
    for answers, examples in (([], []), (["x"], EXAMPLES)):
        with pytest.raises(ConfigError, match="one answer an example"):
            score_titles(answers, examples, 1.0)


def test_the_interval_is_of_the_difference_of_means() -> None:
    good, poor = score_titles(TRUE, EXAMPLES, 1.0), score_titles(["Colic", "spasm", "no"], EXAMPLES, 2.0)
    found = paired_bootstrap({"t": good}, {"t": poor}, kind="titles", resamples=2000)
    means = [set_macro_f1([s], "titles", "strict") for s in (good, poor)]
    assert means[0] == pytest.approx(1)
    assert found.difference == pytest.approx(means[0] - means[1])
    lowest, highest = (1 - max_or_min(poor) for max_or_min in (_best, _worst))
    assert lowest <= found.low < found.difference < found.high <= highest
    assert found.excludes_zero


def _best(scores: Scores) -> float:
    return max(c.title.fmeasure for c in scores.counts if c.title)


def _worst(scores: Scores) -> float:
    return min(c.title.fmeasure for c in scores.counts if c.title)
