"""Rows, differences and claims of the paper's experiments."""

from __future__ import annotations

import numpy as np
import pytest
from suite import (
    fairness,
    heterogeneity,
    new_site,
    notes,
    rounds,
    rows,
    titles,
    validation_size,
)
from suite.notes import DISJOINT, INCOMPLETE
from suite.rows import NAN, Row
from suite.settings import TINY
from suite.systems import CENTRAL

from fedsec.evaluation.matching import Tally
from fedsec.evaluation.scores import ExampleCounts, Scores, kind_scores, paired_bootstrap
from fedsec.evaluation.titles import score_titles
from tests.scored import counted, example


@pytest.fixture(scope="module")
def invented() -> notes.Notes:
    return notes.read(TINY)


def linked(many: int, right: int = 1) -> Scores:
    """As many sentences with a relation each."""
    counts = tuple(
        ExampleCounts(example_id=str(n), entities={}, relations={"causes": Tally(1, 1, right, right)})
        for n in range(many)
    )
    return counted(counts, entities=None, relations=kind_scores(counts, "relations"))


def scores_of(right: list[int], label: str = "Drug", **update) -> Scores:
    counts = tuple(
        ExampleCounts(example_id=str(n), entities={label: Tally(1, 1, r, r)}, relations={}) for n, r in enumerate(right)
    )
    return counted(counts, **update)


def difference(seed, low, high):
    return Row("c", seed, "d", NAN, "a", rows.MEASURE, (low + high) / 2, low, high)


class TestRows:
    def test_f1_by_test_set_and_their_mean(self):
        found = list(rows.f1_rows("c", 0, "s", {"a": scores_of([1, 1]), "b": scores_of([1, 0])}))
        strict = {r.test: r.value for r in found if r.measure == rows.MEASURE}
        assert strict == {"a": 1.0, "b": 0.5, rows.ALL: 0.75}

    def test_differences_are_over_the_sentences_that_both_answered(self):
        (strict, _) = rows.difference_rows("c", 0, "d", {"a": scores_of([1, 1, 0])}, {"a": scores_of([1, 0])})
        assert (strict.value, strict.test) == (0.5, "a")
        assert strict.low <= 0.5 <= strict.high

    def test_what_one_system_does_not_do_is_not_compared(self):
        related = {"relations": kind_scores(scores_of([1]).counts, "relations")}
        found = rows.difference_rows("c", 0, "d", {"a": scores_of([1], **related)}, {"a": scores_of([1])})
        assert {r.measure for r in found} == {"entities strict F1", "entities lenient F1"}

    def test_near_is_told_only_against(self):
        row = Row("c", 0, "d", NAN, "a", rows.MEASURE, -0.1, -0.15, -0.05)
        assert rows.near(row, -0.02, 0.5) is False
        assert rows.near(row, -0.2, 0.5) is None

    @pytest.mark.parametrize(
        ("ends", "expected"),
        [
            ([], None),
            ([(0.1, 0.2)], True),
            ([(0.1, 0.2), (-0.1, 0.2)], None),
            ([(-0.2, -0.1), (-0.3, -0.1)], False),
            ([(0.0, 0.0)], None),
        ],
    )
    def test_a_direction_is_told_only_where_no_interval_reaches_zero(self, ends, expected):
        some = [difference(n, low, high) for n, (low, high) in enumerate(ends)]
        assert rows.direction(some) is expected

    def test_over_all_seeds_one_interval_decides_and_no_seed_may_point_the_other_way(self):
        over = difference(rows.EVERY_SEED, 0.1, 0.2)
        unsure, against = difference(0, -0.1, 0.3), difference(1, -0.3, 0.1)
        assert rows.direction([unsure, over]) is True
        assert rows.direction([unsure, over], positive=False) is False
        assert rows.direction([unsure, against, over]) is None
        assert rows.direction([unsure, difference(rows.EVERY_SEED, -0.1, 0.3)]) is None
        assert rows.told([unsure, over]) == "+0.150 (+0.100 to +0.200); seed by seed +0.100 to +0.100"
        assert rows.told([over]) == "+0.150 (+0.100 to +0.200)"

    def test_seeds_are_counted_together_sentence_by_sentence(self):
        first, second = scores_of([1, 1, 0, 0]), scores_of([1, 0, 0, 0])
        both = rows.together([{"a": first}, {"a": second}])
        assert [one.triple("entities", "strict") for one in both["a"].counts] == [
            tuple(map(sum, zip(one.triple("entities", "strict"), other.triple("entities", "strict"), strict=True)))
            for one, other in zip(first.counts, second.counts, strict=True)
        ]
        assert both["a"].f1("entities", "strict") == 3 / 8
        assert rows.together([{"a": first}]) == {"a": first}
        with pytest.raises(SystemExit, match="other sentences"):
            rows.together([{"a": first}, {"a": second.model_copy(update={"counts": second.counts[::-1]})}])

    def test_seeds_together_have_no_more_relations_than_the_notes(self):
        few, many = linked(rows.FEWEST["relations"] - 1), linked(rows.FEWEST["relations"])
        both = rows.together([{"few": few, "many": many}] * 2)
        assert both["few"].relations is None
        assert both["many"].f1("relations", "strict") == many.f1("relations", "strict")
        assert {r.test for r in rows.difference_rows("c", -1, "d", both, both) if r.measure.startswith("rel")} == {
            "all"
        }

    def test_the_weakest_site_is_the_one_that_is_weakest_alone(self):
        alone = {"a": scores_of([1, 0, 0, 0]), "b": scores_of([1, 1, 0, 0])}
        together = {"a": scores_of([1, 1, 1, 0]), "b": scores_of([1, 0, 0, 0])}
        found = list(fairness.fair_rows("c", 0, "Fed", "strict", alone, together))
        (weakest,) = [r for r in found if r.measure.startswith(fairness.WEAKEST)]
        assert (weakest.test, weakest.value) == ("a", 0.5)
        assert weakest.low <= 0.5 <= weakest.high
        means = {r.system: r.value for r in found if r.measure.startswith(fairness.HARMONIC)}
        assert means["Fed"] == pytest.approx(2 / (1 / 0.75 + 1 / 0.25))
        (gain,) = [r for r in found if r.measure.startswith(fairness.MEAN_GAIN)]
        assert gain.value == pytest.approx(means["Fed"] - 2 / (1 / 0.25 + 1 / 0.5))
        assert gain.low < gain.value < gain.high

    def test_a_client_that_loses_is_said_to_disagree(self):
        alone, together = {"a": scores_of([1] * 9), "b": scores_of([0] * 9)}, {"a": scores_of([0] * 9)}
        together["b"] = scores_of([1] * 9)
        found = list(fairness.fair_rows("c", 0, fairness.FED, "strict", alone, together))
        said = {c.paper: c for c in fairness.claims(found)}
        assert said["every client gains"].agrees is False
        assert "a, entities" in said["every client gains"].here
        assert said["the weakest client gains 2.3 to 4.1 %"].agrees is True

    def test_few_relations_have_no_f1_and_nothing_right_has_no_interval(self):
        few, many = linked(rows.FEWEST["relations"] - 1), linked(rows.FEWEST["relations"])
        found = list(rows.f1_rows("c", 0, "s", {"few": few, "many": many}))
        assert {r.test for r in found if r.measure == "relations strict F1"} == {"many", rows.ALL}
        assert {r.test: r.value for r in found if r.measure == f"relations {rows.GOLD}"} == {"few": 19, "many": 20}
        assert not list(rows.difference_rows("c", 0, "d", {"few": few}, {"few": few}))
        assert list(rows.difference_rows("c", 0, "d", {"many": many}, {"many": many}))
        wrong = linked(20, right=0)
        assert not list(rows.difference_rows("c", 0, "d", {"many": wrong}, {"many": wrong}))

    def test_answers_to_one_label_at_a_time_are_united(self):
        drugs, problems = scores_of([1, 0]), scores_of([1, 1], label="Problem")
        found = heterogeneity.united([drugs, problems])
        assert found.f1("entities", "strict") == 0.75
        assert [set(c.entities) for c in found.counts] == [{"Drug", "Problem"}] * 2
        with pytest.raises(SystemExit, match="same sentences"):
            heterogeneity.united([drugs, problems.model_copy(update={"counts": problems.counts[::-1]})])

    def test_a_label_that_is_lost_is_seen(self):
        found = heterogeneity.united([scores_of([1, 1]), scores_of([0, 0], label="Problem")])
        assert found.f1("entities", "strict") == 0.5
        (table,) = [
            line
            for line in heterogeneity.label_table(list(heterogeneity.label_rows("c", 0, "s", {"t": found})))
            if line.startswith("| s ")
        ]
        assert table == "| s | 0 | 2 of 2, of 2 | 0 of 2, of 2 |"
        assert list(heterogeneity.label_table([])) == []

    def test_more_rounds_are_compared_with_as_many_and_with_pooled_notes(self):
        better, worse = {"t": scores_of([1] * 9)}, {"t": scores_of([0] * 9)}
        found = [
            *rows.f1_rows("c", 0, CENTRAL, better),
            *rows.f1_rows("c", 0, rounds.system("10 sites", 4), worse, 4),
            *rows.difference_rows("c", 0, rounds.below(10, 4), worse, better, 4),
            *rows.difference_rows("c", 0, rounds.against(DISJOINT, 4), worse, better, 4),
            *rows.difference_rows("c", 0, rounds.against(INCOMPLETE, 4), better, worse, 4),
        ]
        said = list(rounds.claims(found))
        assert [c.agrees for c in said] == [None, True, False, False]
        assert "10 sites − centralised, 4 rounds: -1.000" in said[-1].here
        assert "4 rounds" in "".join(rounds.summary(found))

    def test_of_tied_sites_each_is_the_heaviest(self):
        whole = np.array([0.4, 0.4, 0.2])
        shares = np.array([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2], [0.2, 0.3, 0.5], [0.3, 0.3, 0.4]])
        assert validation_size.heaviest(shares, whole) == 0.5
        assert validation_size.heaviest(shares, np.array([0.2, 0.3, 0.5])) == 0.5


TITLES = ("Colic after belvapril", "A case of renal spasm")


def written(*answers: str, loss: float = 1.0) -> Scores:
    return score_titles(answers, [example(f"t{n}", answer=title) for n, title in enumerate(TITLES)], loss)


class TestTitles:
    def test_the_scale_of_titles_deals_whole_notes_without_labels(self, invented):
        asked = invented.of_titles(titles.PLAN)
        deal = asked.deal(notes.TITLED, 0)
        assert tuple(deal) == invented.titled
        assert {section.limit for _, section in deal.values()} == {TINY.abstracts}
        assert all((s.entity_types, s.relation_types) == (None, None) for _, s in deal.values())
        assert asked.test_spec(invented.titled[0]).limit == TINY.titles
        assert asked.scale.changes == (*TINY.changes, *titles.PLAN)

    def test_rows_are_by_test_set_and_a_copy_has_no_loss(self):
        found = {"a": written(*TITLES, loss=1.0), "b": written("", "spasm", loss=2.0)}
        values = {(r.measure, r.test): r.value for r in titles.title_rows("c", 0, "s", found)}
        assert values[titles.ROUGE, "a"] == pytest.approx(1)
        assert values[titles.ROUGE, rows.ALL] == pytest.approx((1 + values[titles.ROUGE, "b"]) / 2)
        assert [values[titles.EMPTY, test] for test in ("a", "b", rows.ALL)] == [0, 0.5, 0.25]
        assert values[titles.LOSS, rows.ALL] == 1.5
        assert values[titles.LENGTH, "a"] == pytest.approx(1)
        assert values[titles.LENGTH, "b"] == pytest.approx(1 / 5)  # of the two only "spasm" shares a word
        few = list(titles.title_rows("c", 0, "s", found, (titles.ROUGE,)))
        assert {r.measure for r in few} == {titles.ROUGE}
        nothing = titles.title_rows("c", 0, "s", {"a": written("x", "y")}, titles.OVERLAPS)
        assert {r.measure for r in nothing} == {titles.ROUGE, titles.PRECISION, titles.RECALL}

    def test_a_copy_is_the_first_sentence_whole(self):
        text = "It was given\nfor renal spasm. It helped."
        test = titles.TestSet(
            notes.PublicTest(name="t"), [example("e", answer="It was given for renal spasm", text=text)]
        )
        assert titles._lead(test).f1("titles", "strict") == pytest.approx(1)

    def test_a_site_s_own_test_and_the_mean_of_sites(self):
        good, poor = written(*TITLES), written("x", "y")
        singles = {"single-site: a": {"a": good, "b": poor}, "single-site: b": {"a": poor, "b": good}}
        assert titles.own(singles) == {"a": good, "b": good}
        mean_ = titles.mean_of(list(singles.values()))
        assert [c.title.fmeasure for c in mean_["a"].counts] == pytest.approx([0.5, 0.5])
        found = paired_bootstrap({"a": good, "b": good}, mean_, kind="titles", resamples=200)
        assert found.difference == pytest.approx(0.5)

    def test_every_part_of_the_question_is_answered_by_its_own_difference(self):
        ends = {
            f"{titles.FED} − {titles.ZERO_SHOT}": (0.1, 0.2),
            f"{titles.ZERO_SHOT} − {titles.LEAD}": (-0.2, -0.1),
            f"{titles.FED} − {titles.CENTRAL}": (-0.2, -0.1),
            f"{titles.FED} − {titles.OWN}": (-0.1, 0.1),
            f"{titles.FED} − {titles.SINGLE}: a": (0.1, 0.2),
            f"{titles.FED} − {titles.SINGLE}: b": (-0.1, 0.2),
        }
        some = [Row("c", 0, words, NAN, rows.ALL, titles.ROUGE, sum(e) / 2, *e) for words, e in ends.items()]
        assert [claim.agrees for claim in titles.claims(some)] == [False, True, None, None, True]


class TestNewSite:
    def test_each_claim_is_about_its_own_differences(self):
        found = [
            Row("c", 0, f"{n} records: {what}", n, "t", rows.MEASURE, value, value - 0.1, value + 0.1)
            for n, over_base, over_fed in ((10, 0.3, -0.05), (100, 0.2, 0.15))
            for what, value in ((new_site.OVER_BASE, over_base), (new_site.OVER_FED, over_fed))
        ]
        _, base, fed = new_site.claims(found)
        assert (base.here, base.agrees) == ("entities, strict: 10 records +0.300; 100 records +0.200", True)
        assert (fed.here, fed.agrees) == ("entities, strict: 10 records -0.050; 100 records +0.150", None)
        assert [c.here for c in new_site.claims([])][1:] == ["entities, strict: not run yet"] * 2
