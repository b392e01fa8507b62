"""What the paper's experiments compute: sums, weights, attacks, a random field, bytes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suite import (
    communication,
    crf,
    notes,
    poisoned,
)
from suite.aggregate import influence, krum, mean, median, resampled

from fedsec.data.schema import Entity
from fedsec_secure.numeric.score_levels import level_of
from fedsec_secure.weighting.influence import Influence
from tests.scored import example


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
        some = [example(f"e{n}", answer=f"answer {n}") for n in range(7)]
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
