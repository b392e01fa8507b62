"""The paper's experiments: what is dealt and left out, what is computed, their files, and that they run and go on."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.data.schema import Document, Entity, Example
from fedsec.data.sitedata import site_examples
from fedsec.evaluation.matching import Tally
from fedsec.evaluation.scores import ExampleCounts, Scores, kind_scores, paired_bootstrap
from fedsec.evaluation.titles import score_titles
from fedsec_secure.numeric.score_levels import level_of
from fedsec_secure.weighting.influence import Influence

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "paper"
sys.path[:0] = [str(EXAMPLE), str(EXAMPLE.parent)]

import run  # noqa: E402
from cells.figure import drawn  # noqa: E402
from cells.table import Table  # noqa: E402
from suite import (  # noqa: E402
    communication,
    crf,
    fairness,
    heterogeneity,
    new_site,
    notes,
    poisoned,
    rounds,
    rows,
    titles,
    validation_size,
)
from suite.aggregate import influence, krum, mean, median, resampled  # noqa: E402
from suite.in_domain import BOUND, DEVIATION  # noqa: E402
from suite.lab import Lab  # noqa: E402
from suite.notes import DISJOINT, INCOMPLETE  # noqa: E402
from suite.rows import NAN, Row  # noqa: E402
from suite.settings import FULL, TINY  # noqa: E402
from suite.systems import CENTRAL  # noqa: E402


@pytest.fixture(scope="module")
def invented() -> notes.Notes:
    return notes.read(TINY)


def documents(*patients: str) -> list[Document]:
    return [Document(document_id=f"d{n}-{p}", patient_id=p, text="x") for n, p in enumerate(patients)]


class TestNotes:
    def test_no_publication_is_trained_on_and_tested_on_and_the_new_site_is_new(self):
        train = {"old": documents("1", "2", "3"), "other": documents("4"), "new": documents("2", "4", "5", "6")}
        kept, left_out = notes.separated(train, [documents("3"), documents("6", "9")], "new")
        assert {n: [d.patient_id for d in some] for n, some in kept.items()} == {
            "old": ["1", "2"],
            "other": ["4"],
            "new": ["5"],
        }
        assert left_out == {"old": 1, "other": 0, "new": 3}

    @pytest.mark.parametrize("name", ["pool-3", "pool-5", *notes.HETEROGENEOUS])
    def test_like_sites_share_no_patient(self, invented, name):
        deal = invented.deal(name, 0)
        patients = [{d.patient_id for d in some} for some, _ in deal.values()]
        assert sum(map(len, patients)) == len(set.union(*patients))
        if name.startswith("pool-"):
            assert sum(section.limit for _, section in deal.values()) <= TINY.pool

    def test_kinds_of_annotation(self):
        both = notes.Labels(("A", "B"), ("r",))
        asked = {k: [(x.entities, x.relations) for x in notes.heterogeneous(k, both)] for k in notes.HETEROGENEOUS}
        assert asked["complete"] == asked["linked-at-all"] == [(("A", "B"), ("r",))] * 3
        assert [links for _, links in asked["linked-at-one"]] == [("r",), None, None]
        assert asked["incomplete"] == [(("A", "B"), ("r",)), (("A",), None), (("B",), None)]
        assert asked["disjoint"] == [(("A",), None), (("B",), None), (("A",), None)]

    def test_public_sets_hold_no_patient_of_a_site(self, invented):
        trained = {d.patient_id for some in invented.train.values() for d in some}
        public = [*invented.tests.values(), invented.validation]
        assert trained.isdisjoint(d.patient_id for some in public for d in some)


class TestSums:
    updates = tuple(np.float32([x, 1.0, -x]) for x in (1.0, 2.0, 3.0, 4.0, 100.0))

    def test_the_mean_is_weighted_and_clipped(self):
        found = mean([np.float32([1.0, -9.0]), np.float32([3.0, 1.0])], [1, 3], clip=2.0)
        assert found.dtype == np.float32
        assert found.tolist() == [(1 + 3 * 2) / 4, (-2 + 3) / 4]

    def test_median_and_krum_do_not_mind_one_that_is_far_off(self):
        assert median(self.updates).tolist() == [3.0, 1.0, -3.0]
        assert krum(self.updates, 1) == 1  # nearest to its two nearest, of 2 and 3 the first
        assert krum([self.updates[-1], *self.updates[:-1]], 1) == 2
        with pytest.raises(SystemExit, match="at least 7"):
            krum(self.updates, 2)

    def test_influence_is_the_exponential_of_the_clipped_loss_in_steps(self):
        shares = influence([0.0, 1.0, 9.0])
        expected = np.exp([0.0, -1.0, -4.0])
        assert shares == pytest.approx(expected / expected.sum(), rel=1e-3)
        assert influence([0.51, 0.52]) == pytest.approx([0.5, 0.5])

    @given(
        st.lists(st.floats(-1, 6) | st.sampled_from([math.nan, math.inf]), min_size=3, max_size=8),
        st.sampled_from([0.34, 0.5, 1.0]),
    )
    def test_influence_is_the_rule_of_a_run(self, losses, cap):
        rule = Influence({}, Fraction(str(cap)), Fraction(1))
        weights = rule.weigh({f"s{n}": level_of(loss) for n, loss in enumerate(losses)})
        expected = np.array(list(weights.values())) / sum(weights.values())
        assert influence(losses, cap) == pytest.approx(expected)

    def test_too_few_sites_for_a_cap_are_refused(self):
        with pytest.raises(SystemExit, match="cannot each weigh"):
            influence([0.5, 0.5], 0.4)

    def test_small_validation_sets_spread_the_weights_more(self):
        generator = np.random.default_rng(0)
        losses = {site: generator.exponential(1.0, 60) for site in "abcd"}
        tokens = generator.integers(1, 20, 60)
        spread = [resampled(losses, tokens, size, 3000, 1).std(axis=0).mean() for size in (1, 5, 20)]
        assert spread[0] > spread[1] > spread[2]
        shares = resampled(losses, tokens, 5, 10, 1)
        assert shares.shape == (10, 4)
        assert shares.sum(axis=1) == pytest.approx(np.ones(10))
        assert (shares == resampled(losses, tokens, 5, 10, 1)).all()

    def test_a_set_of_one_kind_of_record_has_no_spread(self):
        shares = resampled({"a": np.full(9, 0.5), "b": np.full(9, 1.5)}, np.full(9, 3), 2, 50, 0)
        assert shares == pytest.approx(np.tile(influence([0.5, 1.5]), (50, 1)))


class TestPoison:
    def test_shuffled_labels_are_all_anothers(self):
        some = [example(f"e{n}", f"answer {n}") for n in range(7)]
        moved = poisoned.shuffled(some, 3)
        assert sorted(e.answer for e in moved) == sorted(e.answer for e in some)
        assert all(a.answer != b.answer for a, b in zip(some, moved, strict=True))
        assert [e.prompt for e in moved] == [e.prompt for e in some]

    def test_strength(self):
        update = np.float32([3.0, -4.0])
        assert poisoned.attacked(update, poisoned.NONE, 0).tolist() == [3.0, -4.0]
        assert poisoned.attacked(update, poisoned.FLIPPED, 0).tolist() == [-12.0, 16.0]
        noise = poisoned.attacked(update, poisoned.RANDOM, 0)
        assert np.linalg.norm(noise) == pytest.approx(poisoned.STRENGTH * 5)
        assert not np.allclose(noise, poisoned.attacked(update, poisoned.RANDOM, 1))


def example(name: str, answer: str = "none", text: str = "No harm.", entities: tuple[Entity, ...] = ()) -> Example:
    return Example(
        example_id=name,
        document_id=name,
        patient_id=name,
        text=text,
        offset=0,
        entities=entities,
        relations=None,
        prompt=f"Text: {text}",
        answer=answer,
    )


class TestField:
    text = "Belvapril-induced renal spasm, twice."
    entities = (
        Entity(id="T1", type="Drug", start=0, end=9, text="Belvapril"),
        Entity(id="T2", type="Problem", start=18, end=29, text="renal spasm"),
        Entity(id="T3", type="Problem", start=24, end=29, text="spasm"),
    )

    def test_tags_come_back_as_mentions_and_of_two_that_overlap_the_longer(self):
        words = crf.tokens(self.text)
        tagged = crf.tags(words, self.entities)
        assert tagged == ["B-Drug", "O", "O", "B-Problem", "I-Problem", "O", "O", "O"]
        assert [(e.type, e.text) for e in crf.mentions(words, tagged, self.text)] == [
            ("Drug", "Belvapril"),
            ("Problem", "renal spasm"),
        ]

    def test_an_inside_tag_that_continues_nothing_begins_a_mention(self):
        words = crf.tokens("a b c")
        found = crf.mentions(words, ["I-Drug", "I-Problem", "B-Problem"], "a b c")
        assert [(e.type, e.text) for e in found] == [("Drug", "a"), ("Problem", "b"), ("Problem", "c")]

    def test_it_learns(self, tmp_path):
        pytest.importorskip("pycrfsuite")
        some = [example(f"e{n}", text=self.text, entities=self.entities) for n in range(5)]
        spec = notes.PublicTest(name="t", entity_types=("Drug", "Problem"))
        scores = crf.Crf(some).scores(
            crf.TestSet(spec, [e.model_copy(update={"entities": self.entities[:2]}) for e in some])
        )
        assert scores.f1("entities", "strict") == 1.0
        assert scores.relations is None


class TestBytes:
    def test_the_8b_model_by_its_shapes(self):
        assert communication.LLAMA_8B.parameters == 8_030_261_248
        assert communication.LLAMA_8B.lora(16) == 41_943_040
        found = {
            r.test: r.value
            for r in communication.shape_rows("c", 0, communication.LLAMA_8B)
            if r.measure == communication.LESS
        }
        assert set(found) == {"by parameters", "float32", "masked words"}
        assert all(0.985 <= less < 1 for less in found.values())

    def test_the_small_model_by_its_shapes(self):
        assert communication.SMOLLM2.parameters == 134_515_008
        assert communication.SMOLLM2.lora(16) == 4_884_480

    def test_three_coordinates_travel_in_a_masked_word(self):
        assert communication.masked_bytes(3000) - communication.masked_bytes(0 + 3) == 8 * 999

    def test_exchanges_are_means_over_sites_and_rounds(self):
        events = [
            {"event": "exchange", "exchange": "mask", "bytes_up": {"a": 10, "b": 20}, "bytes_down": {"a": 1, "b": 1}},
            {"event": "round"},
            {"event": "exchange", "exchange": "mask", "bytes_up": {"a": 30}, "bytes_down": {"a": 4}},
        ]
        assert communication.traffic(events) == {"mask": (20, 2)}


def linked(many: int, right: int = 1) -> Scores:
    """As many sentences with a relation each."""
    counts = tuple(
        ExampleCounts(example_id=str(n), entities={}, relations={"causes": Tally(1, 1, right, right)})
        for n in range(many)
    )
    return scores_of([], counts=counts, entities=None, relations=kind_scores(counts, "relations"))


def scores_of(right: list[int], label: str = "Drug", **update) -> Scores:
    counts = tuple(
        ExampleCounts(example_id=str(n), entities={label: Tally(1, 1, r, r)}, relations={}) for n, r in enumerate(right)
    )
    return Scores(
        examples=len(counts),
        entities=kind_scores(counts, "entities"),
        relations=None,
        ungrounded=0,
        malformed_lines=0,
        seconds=0.0,
        counts=counts,
    ).model_copy(update=update)


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
    return score_titles(answers, [example(f"t{n}", title) for n, title in enumerate(TITLES)], loss)


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
        test = titles.TestSet(notes.PublicTest(name="t"), [example("e", "It was given for renal spasm", text)])
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


class TestCommand:
    def cells(self, *arguments: str) -> list[str]:
        given_ = run.parser().parse_args(arguments)
        return [cell.name for cell in run.cells_of(given_, TINY if given_.tiny else FULL)]

    def test_names_are_unique_and_the_first_seed_of_everything_comes_first(self):
        names = self.cells()
        assert len(set(names)) == len(names)
        assert {name.split("/")[0] for name in names} == set(run.EXPERIMENTS)
        seeds = [name[-1] for name in names]
        assert seeds == sorted(seeds, key=lambda s: s != "0")
        main_ = [name for name in names if name.startswith("in_domain/")]
        assert {name[-1] for name in main_} == {"0", "1", "2"}
        assert {name[-1] for name in names if name.startswith("poisoned/")} == {"0"}
        assert main_[-1].endswith("-s0+1+2")
        assert not [name for name in self.cells("in_domain", "--seeds", "1") if "+" in name.split("-s")[-1]]

    def test_options_choose(self):
        assert self.cells("sites", "--only", "*/5-*", "--seeds", "4") == ["sites/5-sites-s4", "sites/5-compare-s4"]
        with pytest.raises(SystemExit, match="no experiment of that name"):
            self.cells("elsewhere")

    def test_a_listing_says_what_is_left(self, tmp_path, capsys):
        assert run.main(["in_domain", "--list", "--out", str(tmp_path), "--results", str(tmp_path)]) == 0
        assert "CPU hours are left" in capsys.readouterr().out

    @pytest.mark.parametrize("name", list(run.EXPERIMENTS))
    def test_no_row_no_figure_and_a_summary_all_the_same(self, name, tmp_path):
        experiment = run.EXPERIMENTS[name]
        with drawn(tmp_path / "figure", 3, 2) as figure:
            assert experiment.draw(figure, []) is False
        assert experiment.title in experiment.summarised([])


class TestLab:
    def test_what_was_made_is_not_made_again_and_others_wait_for_it(self, tmp_path):
        lab, made, results = Lab(tmp_path, TINY), [], []

        def make(path: Path) -> bytes:
            made.append(path)
            return b"x"

        threads = [threading.Thread(target=lambda: results.append(lab._once("key", make))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [b"x"] * 4
        assert len(made) == 1

    def test_a_kill_leaves_nothing_that_looks_made(self, tmp_path):
        lab = Lab(tmp_path, TINY)

        def killed(path: Path) -> bytes:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            lab._once("key", killed)
        assert lab._once("key", lambda path: b"y") == b"y"


def test_one_small_cell_runs_masked_and_as_a_plain_sum(tmp_path):
    """What changes under the suite is noticed here before the whole of it runs."""
    where = ["in_domain", "--tiny", "--out", str(tmp_path), "--only", "*/fed-medlora-plus-s0"]
    assert run.main(where) == 0
    found = Table(tmp_path / "results" / "in_domain" / "results.csv", Row).rows()
    bounds = {r.x: r.value for r in found if r.measure == BOUND}
    masked = {r.x: r.value for r in found if r.measure == DEVIATION}
    assert len(masked) == 2
    assert all(0 < value <= bounds[x] for x, value in masked.items())
    assert run.main([*where, "--table"]) == 0
    assert "Masked and plain sums of the same updates" in (tmp_path / "results" / "in_domain" / "summary.md").read_text(
        encoding="utf-8"
    )


def test_titles_are_learnt_from_the_same_first_round_as_single_sites(tmp_path):
    """The other task: what depends on the kind of the plan is noticed here."""
    where = ["titles", "--tiny", "--out", str(tmp_path)]
    assert run.main([*where, "--only", "*/single-site-s0"]) == 0
    alone = {p for p in (tmp_path / "made").glob("train-*") if not p.suffix}
    assert run.main([*where, "--only", "*/fed-medlora-s0"]) == 0
    both = {p for p in (tmp_path / "made").glob("train-*") if not p.suffix}
    assert (len(alone), len(both)) == (6, 9)  # three sites and two rounds; the federation's second round
    assert run.main(where) == 0
    found = Table(tmp_path / "results" / "titles" / "results.csv", Row).rows()
    assert all(r.low <= r.value <= r.high for r in found if not math.isnan(r.low))
    losses = {r.system: r.value for r in rows.select(found, measure=titles.LOSS, test=rows.ALL)}
    assert losses[titles.FED] < losses[titles.ZERO_SHOT]
    text = (tmp_path / "results" / "titles" / "summary.md").read_text(encoding="utf-8")
    assert "Tested on: 2 of clifton" in text


@pytest.mark.slow
def test_a_small_suite_runs_end_to_end_and_a_second_call_trains_nothing(tmp_path):
    pytest.importorskip("pycrfsuite")
    where = ["--tiny", "--out", str(tmp_path)]
    assert run.main(where) == 0
    results = tmp_path / "results"
    for name in run.EXPERIMENTS:
        assert {p.name for p in (results / name).iterdir()} == {"results.csv", "summary.md", "figure.svg", "figure.png"}
        ElementTree.parse(results / name / "figure.svg")
    found = Table(results / "in_domain" / "results.csv", Row).rows()
    masked = {(r.cell, r.x): r.value for r in found if r.measure == DEVIATION}
    bounds = {(r.cell, r.x): r.value for r in found if r.measure == BOUND}
    assert len(masked) == 4
    assert all(0 < value <= bounds[key] for key, value in masked.items())
    shares = [r for r in Table(results / "poisoned" / "results.csv", Row).rows() if r.measure == poisoned.SHARE]
    assert all(0 <= r.value <= 1 for r in shares)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").iterdir() if path.suffix != ".lock"}
    table = results / "sites" / "results.csv"
    before = table.read_text().splitlines(keepends=True)
    kept = [line for line in before if not line.startswith("sites/3-sites-s0")]
    table.write_text("".join(kept))  # killed before the rows were written
    assert run.main(["sites", *where]) == 0
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "made").iterdir() if path.suffix != ".lock"}
    again = table.read_text().splitlines(keepends=True)
    assert sorted(line for line in again if "CPU" not in line) == sorted(line for line in before if "CPU" not in line)
    over = [
        "in_domain",
        "fairness",
        *where,
        "--seeds",
        "0",
        "1",
        "--only",
        "in_domain/compare-plus-s0+1",
        "fairness/*-s0+1",
    ]
    assert run.main(over) == 0
    every = [
        r for name in over[:2] for r in Table(results / name / "results.csv", Row).rows() if r.seed == rows.EVERY_SEED
    ]
    assert {r.cell for r in every} >= {"fairness/fed-medlora-s0+1", "fairness/fed-medlora-plus-s0+1"}
    assert all(r.low <= r.value <= r.high for r in every)
    assert "-1" not in (results / "fairness" / "summary.md").read_text(encoding="utf-8").splitlines()[2]


@pytest.mark.slow
def test_a_killed_process_leaves_what_the_next_one_finishes(tmp_path):
    """Killed in the masked run, after the first site has trained."""
    where = ["in_domain", "--tiny", "--out", str(tmp_path), "--only", "*/fed-medlora-s0"]
    process = subprocess.Popen([sys.executable, str(EXAMPLE / "run.py"), *where], stderr=subprocess.DEVNULL)
    made = tmp_path / "made"
    end = time.monotonic() + 180
    while not (made.is_dir() and any(p.suffix == "" and p.name.startswith("train-") for p in made.iterdir())):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    table = Table(tmp_path / "results" / "in_domain" / "results.csv", Row)
    assert table.rows() == []
    assert run.main(where) == 0
    assert {row.cell for row in table.rows()} == {"in_domain/fed-medlora-s0"}
    assert all(0 <= r.value <= 1 for r in table.rows() if r.measure == rows.MEASURE)


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("FEDSEC_DATA"), reason="FEDSEC_DATA does not name the folder of the real corpora"
)
def test_the_corpora_fill_every_site_and_no_publication_is_on_both_sides(tmp_path):
    lab = Lab(tmp_path, FULL)
    suite = lab.notes
    public = {d.patient_id for some in (*suite.tests.values(), suite.validation) for d in some}
    assert all(public.isdisjoint(d.patient_id for d in some) for some in suite.train.values())
    known = {d.patient_id for name in suite.sites for d in suite.train[name]}
    assert known.isdisjoint(d.patient_id for d in suite.train[suite.new])
    assert suite.left_out[suite.new] >= 54
    for name in ("four", "pool-3", "pool-5", "pool-10", *notes.HETEROGENEOUS):
        for documents_, section in suite.deal(name, 0).values():
            assert len(site_examples(documents_, section, lab.draft.task)[0]) == section.limit
    other = titles.asked_for_titles(lab)
    for documents_, section in other.notes.deal(notes.TITLED, 0).values():
        assert len(site_examples(documents_, section, other.draft.task)[0]) == FULL.abstracts
    assert all(len(other.test(name).examples) == FULL.titles for name in other.notes.sites)
    assert all(len(lab.wide_test(name).examples) >= FULL.test for name in suite.tests)
    assert len(lab.validation(FULL.validation_pool)) == FULL.validation_pool
    assert {e.example_id for e in lab.validation(5)} <= {e.example_id for e in lab.validation(60)}
