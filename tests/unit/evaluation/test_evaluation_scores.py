from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from fedsec.data.schema import Entity, Example, Relation
from fedsec.evaluation.evaluate import score_answers
from fedsec.evaluation.matching import Tally, match_links, match_spans
from fedsec.evaluation.scores import ExampleCounts, Score, Scores, paired_bootstrap, set_macro_f1
from fedsec_secure.errors import ConfigError, LocalMisuseError
from tests.scored import counted, example

TEXT = "Belvapril and zostatin caused severe chest pain and cough."
#       0         10  14                 30-36 37          52
TYPES = ("Drug", "Problem")
LINKS = ("causes", "treats")


def mention(number: int, label: str, words: str) -> Entity:
    start = TEXT.index(words)
    return Entity(id=f"T{number}", type=label, start=start, end=start + len(words), text=words)


GOLD = (
    mention(0, "Drug", "Belvapril"),
    mention(1, "Drug", "zostatin"),
    mention(2, "Problem", "severe chest pain"),
    mention(3, "Problem", "cough"),
)
RELATIONS = (Relation(type="causes", head="T0", tail="T2"), Relation(type="causes", head="T1", tail="T3"))


def annotated(name: str = "e", relations: tuple[Relation, ...] | None = RELATIONS) -> Example:
    asked = f"Extract.\nText: {TEXT}\nEntities:\n"
    return example(name, text=TEXT, entities=GOLD, relations=relations, prompt=asked, answer="")


PERFECT = """Belvapril | Drug
zostatin | Drug
severe chest pain | Problem
cough | Problem
Belvapril -> severe chest pain | causes
zostatin -> cough | causes"""


def test_a_perfect_answer_scores_one() -> None:
    scores = score_answers([PERFECT], [annotated()], TYPES, LINKS)
    for kind, match in itertools.product(("entities", "relations"), ("strict", "lenient")):
        assert scores.f1(kind, match) == 1.0
    assert scores.entities is not None
    assert scores.entities.strict.type_macro_f1 == 1.0


def test_hand_computed_entities() -> None:
    # Right: Belvapril. Span too short: chest pain. Wrong type: cough as Drug. Not in the note: aspirin. Unknown label.
    # Missed: zostatin, cough.
    answer = "Belvapril | Drug\nchest pain | Problem\ncough | Drug\naspirin | Drug\ncough | Symptom\nnonsense"
    scores = score_answers([answer], [annotated(relations=None)], TYPES, LINKS)
    assert scores.entities is not None
    strict, lenient = scores.entities.strict, scores.entities.lenient
    assert (strict.micro.correct, strict.micro.predicted, strict.micro.gold) == (1, 5, 4)
    assert (strict.micro.precision, strict.micro.recall) == (0.2, 0.25)
    assert strict.micro.f1 == pytest.approx(2 / 9)
    assert (lenient.micro.correct, lenient.micro.f1) == (2, pytest.approx(4 / 9))
    assert strict.by_type["Drug"] == Score.of(1, 3, 2)
    assert strict.by_type["Problem"] == Score.of(0, 1, 2)
    assert strict.type_macro_f1 == pytest.approx((2 / 5 + 0) / 2)
    assert lenient.type_macro_f1 == pytest.approx((2 / 5 + 2 / 3) / 2)
    assert (scores.ungrounded, scores.malformed_lines, scores.relations) == (1, 1, None)


def test_hand_computed_relations() -> None:
    # Lenient only: the tail is shorter than annotated. Wrong: zostatin -> chest pain, and one of the wrong type.
    # Not usable: a head that is no mention.
    answer = """Belvapril | Drug
zostatin | Drug
chest pain | Problem
Belvapril -> chest pain | causes
zostatin -> chest pain | causes
zostatin -> chest pain | treats
aspirin -> chest pain | causes"""
    scores = score_answers([answer], [annotated()], TYPES, LINKS)
    assert scores.relations is not None
    strict, lenient = scores.relations.strict, scores.relations.lenient
    assert (strict.micro.correct, strict.micro.predicted, strict.micro.gold) == (0, 4, 2)
    assert (lenient.micro.correct, lenient.by_type["causes"]) == (1, Score.of(1, 3, 2))
    assert lenient.by_type["treats"] == Score.of(0, 1, 0)
    assert lenient.type_macro_f1 == pytest.approx(0.4 / 2)


def test_relations_are_directed() -> None:
    answer = PERFECT.replace("zostatin -> cough", "cough -> zostatin")
    scores = score_answers([answer], [annotated()], TYPES, LINKS)
    assert scores.f1("relations", "strict") == scores.f1("relations", "lenient") == 0.5


def test_empty_answers_and_task_kinds() -> None:
    scores = score_answers(["none"], [annotated()], TYPES, LINKS)
    assert scores.f1("entities", "strict") == 0.0
    assert score_answers([PERFECT], [annotated()], TYPES, LINKS, kind="entities").relations is None
    given = score_answers(["zostatin -> cough | causes"], [annotated()], TYPES, LINKS, kind="relations")
    assert given.entities is None
    assert given.f1("relations", "strict") == pytest.approx(2 / 3)
    assert given.f1("entities", "strict") is None
    with pytest.raises(ConfigError, match="one answer an example"):
        score_answers([], [], TYPES, LINKS)


def test_an_answer_is_read_as_its_own_prompt_asked() -> None:
    # The second note is not annotated with relations, so its prompt asked for none, whatever the test set has.
    scores = score_answers([PERFECT, PERFECT], [annotated("a"), annotated("b", relations=None)], TYPES, LINKS)
    assert scores.relations is not None
    assert (scores.relations.strict.micro.predicted, scores.f1("relations", "strict")) == (2, 1.0)
    assert [row.unknown_types for row in scores.counts] == [0, 2]


def test_nothing_to_find_and_nothing_found_is_outside_the_type_mean() -> None:
    bare = annotated(relations=()).model_copy(update={"entities": (GOLD[0],)})
    scores = score_answers(["Belvapril | Drug"], [bare], TYPES, LINKS)
    assert scores.entities is not None
    assert scores.entities.strict.type_macro_f1 == 1.0


@pytest.mark.parametrize(
    ("gold", "predicted", "strict", "lenient"),
    [
        ([(0, 5)], [(0, 3), (0, 5)], 1, 1),  # the inexact one comes first, and takes nothing away
        ([(0, 5)], [(0, 5), (0, 5)], 1, 1),
        ([(0, 5), (6, 9)], [(0, 9)], 0, 1),  # one prediction over two mentions
        ([(0, 5)], [(5, 8)], 0, 0),  # touching is not overlapping
        ([(0, 90)], [(89, 95)], 0, 1),  # one character is enough
        ([], [(0, 5)], 0, 0),
        ([(0, 5)], [], 0, 0),
        ([(0, 1), (0, 2)], [(0, 1), (0, 1), (0, 2)], 2, 2),  # a repeat uses up no other mention
    ],
)
def test_span_matching(gold, predicted, strict, lenient) -> None:
    assert match_spans(gold, predicted) == (strict, lenient)


spans = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)).map(lambda s: (s[0], s[0] + s[1])), max_size=6)


@given(spans, spans, st.randoms(use_true_random=False))
def test_span_matching_properties(gold, predicted, shuffle) -> None:
    strict, lenient = match_spans(gold, predicted)
    overlap = sum(any(g[0] < p[1] and p[0] < g[1] for g in gold) for p in predicted)
    exact = sum(min(gold.count(s), predicted.count(s)) for s in set(gold))
    assert strict == exact
    assert strict <= lenient <= min(len(gold), overlap)
    mixed = list(predicted)
    shuffle.shuffle(mixed)
    assert match_spans(gold, mixed) == (strict, lenient)


def test_link_matching_finds_a_largest_pairing() -> None:
    def link(a: int, b: int) -> tuple[str, tuple[str, int, int], tuple[str, int, int]]:
        return ("causes", ("Drug", a, b), ("Problem", 50, 60))

    gold = [link(0, 5), link(6, 9)]
    assert match_links(gold, [link(0, 9), link(0, 5)]) == 2  # a greedy choice would find one


def system(rows: list[tuple[int, int, int]]) -> Scores:
    counts = [
        ExampleCounts(
            example_id=str(i),
            entities={"Drug": Tally(gold=g, predicted=p, strict=c, lenient=c)},
            relations={},
        )
        for i, (c, p, g) in enumerate(rows)
    ]
    return counted(counts)


def test_bootstrap_separates_what_differs_and_not_what_does_not() -> None:
    generator = np.random.default_rng(1)
    good = {n: system([(int(c), 1, 1) for c in generator.random(100) < 0.8]) for n in "ab"}
    poor = {n: system([(int(c), 1, 1) for c in generator.random(100) < 0.4]) for n in "ab"}
    like = {n: system([(int(c), 1, 1) for c in generator.random(100) < 0.8]) for n in "ab"}
    found = paired_bootstrap(good, poor, resamples=2000)
    wanted = set_macro_f1(good.values(), "entities", "strict") - set_macro_f1(poor.values(), "entities", "strict")
    assert found.difference == pytest.approx(wanted)
    assert found.low < found.difference < found.high
    assert found.excludes_zero
    assert not paired_bootstrap(good, like, resamples=2000).excludes_zero
    same = paired_bootstrap(good, good, resamples=200)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    assert paired_bootstrap(good, poor, resamples=2000) == found


def test_bootstrap_of_one_example_knows_no_other() -> None:
    found = paired_bootstrap({"a": system([(1, 1, 1)])}, {"a": system([(1, 1, 3)])}, resamples=50)
    assert found.difference == found.low == found.high == 0.5


def test_bootstrap_of_f1_is_that_of_means_where_one_is_said_of_one() -> None:
    generator = np.random.default_rng(2)
    a, b = (generator.random(60) < 0.7).astype(int), (generator.random(60) < 0.5).astype(int)
    ours = paired_bootstrap(
        {"t": system([(int(c), 1, 1) for c in a])}, {"t": system([(int(c), 1, 1) for c in b])}, resamples=20_000
    )
    theirs = bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.high, abs=0.02)


def test_bootstrap_refuses_what_is_not_paired() -> None:
    one, two = system([(1, 1, 1)] * 3), system([(1, 1, 1)] * 4)
    with pytest.raises(LocalMisuseError, match="test sets differ"):
        paired_bootstrap({"a": one}, {"b": one})
    with pytest.raises(LocalMisuseError, match="same examples"):
        paired_bootstrap({"a": one}, {"a": two})
    with pytest.raises(LocalMisuseError, match="same examples"):
        paired_bootstrap({"a": one.without_counts()}, {"a": one})
    with pytest.raises(LocalMisuseError, match="relations"):
        paired_bootstrap({"a": one}, {"a": one}, kind="relations")


def test_macro_over_test_sets_leaves_out_sets_without_such_labels() -> None:
    full = score_answers([PERFECT], [annotated()], TYPES, LINKS)
    none = score_answers(["none"], [annotated(relations=None)], TYPES, LINKS)
    assert set_macro_f1([full, none], "entities", "strict") == 0.5
    assert set_macro_f1([full, none], "relations", "strict") == 1.0
    assert set_macro_f1([none], "relations", "strict") is None


def test_scores_survive_json() -> None:
    scores = score_answers([PERFECT], [annotated()], TYPES, LINKS)
    assert Scores.model_validate_json(scores.model_dump_json()) == scores
