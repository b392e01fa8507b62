"""The plain words: what they say follows from the plan's numbers."""

import math
import re

import numpy as np
import pytest
from scipy.stats import norm

from fedsec.plan.cost import RELATION, distributed_step
from fedsec.plan.document import compile_plan
from fedsec.plan.explain import explain
from fedsec.plan.model import Roster
from fedsec.plan.specs import (
    CanarySpec,
    DpSpec,
    EvaluationSpec,
    PrivateScore,
    SecureSpec,
    TrainingSpec,
    ValidationSet,
    WeightingSpec,
)
from fedsec.plan.statement import plural
from fedsec.privacy.accountant import RdpFilter
from fedsec_secure.accounting.events import GaussianEvent
from fedsec_secure.errors import ConfigError
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.numeric.lanes import FixedPoint, Lanes
from tests.e2e.federation import VALIDATION


def texts(draft, sites=None, coordinates=None, topic=None, level=None):
    found = explain(draft, sites, coordinates)
    return [s.text for s in found if topic in (None, s.topic) and level in (None, s.level)]


def test_five_sites_threshold_four(world):
    first, second, third = texts(world.plan(), topic="collusion")
    assert first == (
        "Five sites, threshold 4: a coordinator that lies, together with three of them, learns another's update; "
        "one may drop out, two may not."
    )
    assert "the three other survivors learn" in second
    assert "at most two other sites conspire" in third


def test_sites_with_several_officers_are_named(world):
    assert texts(world.plan(), topic="officers") == []
    ash = world.roster.sites["ash"].model_copy(update={"co_officers": (SigningKey.generate().public.hex,)})
    roster = Roster(coordinator=world.roster.coordinator, sites={**world.roster.sites, "ash": ash})
    (text,) = texts(compile_plan(world.draft, roster), topic="officers")
    assert text.startswith("Several officers: ash (2).")


@pytest.mark.parametrize(
    ("n", "t", "cohort", "drop", "hidden"),
    [
        (3, 3, 3, "none may drop out", "at most one other"),
        (4, 3, 3, "one may drop out, two may not", "at most one other"),
        (7, 5, 3, "two may drop out, three may not", "at most two other"),
        (10, 7, 3, "three may drop out, four may not", "at most three other"),
        (10, 9, 3, "one may drop out, two may not", "at most seven other"),
    ],
)
def test_dropouts_and_conspiracies(world, n, t, cohort, drop, hidden):
    draft = world.draft.model_copy(update={"secure": SecureSpec(threshold=t, minimum_cohort=cohort)})
    about = texts(draft, n, topic="collusion")
    assert drop in about[0]
    assert hidden in about[-1]


def test_a_draft_that_cannot_protect_so_many_sites_is_refused(world):
    assert texts(world.draft, 3, level="refused") == ["Three sites, but every round needs 4."]
    assert "threshold of 5" in texts(world.draft, 7, level="refused")[0]
    assert texts(world.draft, 5, level="refused") == []
    assert texts(world.draft, topic="collusion") == []


def sized(draft):
    return draft.model_copy(update={"weighting": WeightingSpec(rule="size", count_min=1, count_max=1)})


def test_mode_none_is_said_in_clear_words(world):
    draft = world.draft.model_copy(update={"secure": SecureSpec(mode="none")})
    (text,) = texts(draft, 5, topic="protection", level="risk")
    assert "sees every site's update in the clear" in text
    assert texts(draft, 5, topic="collusion") == []
    assert "which the coordinator learns;" in texts(sized(draft), topic="weights")[0]


@pytest.mark.parametrize("mode", ["none", "he", "mask"])
@pytest.mark.parametrize("unit", ["record", "patient"])
def test_what_updates_and_adapter_tell_is_bounded_for_one_unit_where_there_is_noise(world, mode, unit):
    """A record is a part of a note, which is bounded by nothing."""
    draft = world.draft.model_copy(update={"secure": SecureSpec(mode=mode, threshold=4)})
    noisy = draft.model_copy(update={"dp": DpSpec(mode="local", target_epsilon=8.0, unit=unit)})
    for text in texts(noisy, 5, topic="protection", level="risk"):
        assert f", within dp's bound for one {unit}." in text
    assert not any("dp's bound" in text for text in texts(draft, 5))


def test_a_shared_key_is_said_in_clear_words(world):
    plan = world.plan(secure=SecureSpec(mode="he"))
    fact, *risks = texts(plan, topic="protection")
    assert "alone reads no update, no sum and not the adapter" in fact
    assert "together with any one site" in risks[0]
    assert "reads the update of every site" in risks[0]
    assert texts(plan, topic="collusion") == [], "one is enough, which the risk says"
    assert "with one site's key" in texts(sized(plan), topic="weights")[0]
    up = STANDARD.upload_bytes(1_843_200 // 2) + 8
    assert f"sends {(up + 64) / 1e6:.2f} MB" in texts(plan, coordinates=1_843_200, topic="bytes")[0]


def test_weights_on_ciphertexts_are_units_and_cost_bits(world):
    weighting = WeightingSpec(rule="influence", validation=VALIDATION)
    draft = world.draft.model_copy(update={"secure": SecureSpec(mode="he"), "weighting": weighting})
    (text,) = texts(draft, 5, topic="encoding")
    assert f"steps of {FixedPoint.choose(Lanes.named('2x23'), 256, 0.5).step:.3g}" in text
    assert "weights are rounded to one of 256 units" in text
    assert texts(draft, 128, level="refused") == []
    assert "256 units of weight are too few for 129 sites" in texts(draft, 129, topic="encoding", level="refused")[0]


@pytest.mark.parametrize("mode", ["he", "he-mask"])
def test_more_sites_than_decrypt_are_refused_when_the_plan_is_checked(world, mode):
    draft = world.draft.model_copy(update={"secure": SecureSpec(mode=mode, threshold=300)})
    assert texts(draft, 362, topic="encoding", level="refused") == []
    (text,) = texts(draft, 363, topic="encoding", level="refused")
    assert "exact up to weights of 362 in all, found 363" in text


def test_encrypted_sums_are_opened_at_the_sites(world):
    plan = world.plan(secure=SecureSpec(mode="he-mask", threshold=4))
    first, risk = texts(plan, topic="protection")
    assert "only the sites open it: the coordinator has neither sums nor the adapter" in first
    assert "with the key of one site it has both" in first
    assert "can test whether a note was in the training" in risk
    assert texts(plan, topic="collusion") == texts(world.plan(), topic="collusion"), "the masks are the same"
    step = FixedPoint.choose(Lanes.named("2x23"), 5, 0.5).step
    assert f"steps of {step:.3g} (23-bit lanes, 5 sites)" in texts(plan, topic="encoding")[0]
    d = 1_843_200
    up = STANDARD.upload_bytes(d // 2) + 8
    (text,) = texts(plan, coordinates=d, topic="bytes")
    assert f"sends {(up + 64) / 1e6:.2f} MB and receives {STANDARD.sum_bytes(d // 2, 5) / 1e6:.2f} MB" in text
    with pytest.raises(ValueError, match="lanes of their own"):
        SecureSpec(mode="he-mask", threshold=4, ring="4x16")


def test_quantisation_step_is_the_encoders_own(world):
    step = FixedPoint.choose(Lanes.named("3x21"), 5, 0.5).step
    assert f"steps of {step:.3g} (21-bit lanes, 5 sites)" in texts(world.plan(), topic="encoding")[0]
    wide = world.plan(secure=SecureSpec(threshold=4, clip=1000.0))
    assert "clipped to 1000" in texts(wide, topic="encoding")[0]


SHARED_NOISE = DpSpec(mode="distributed", target_epsilon=8.0, dimension=64)


def test_integers_are_rounded_on_their_own_grid_and_not_clipped_again(world):
    plan = world.plan(dp=SHARED_NOISE, training=TrainingSpec(batch_size=1))
    (text,) = texts(plan, topic="encoding")
    assert f"steps of {distributed_step(plan).grid:.3g}," in text
    assert "secure.clip does not apply" in text
    assert "is cut off" not in text
    draft = world.draft.model_copy(update={"dp": SHARED_NOISE})
    assert "fraction of dp.clipping_norm" in texts(draft, 5, topic="encoding")[0]
    wide = SHARED_NOISE.model_copy(update={"expected_batch": 1 << 20, "noise_multiplier": 100.0})
    assert "too narrow" in texts(plan.model_copy(update={"dp": wide}), topic="encoding", level="refused")[0]


@pytest.mark.parametrize(("colluders", "threshold", "most"), [(2, 4, None), (3, 4, 2), (3, 5, None)])
def test_colluders_whom_the_masks_do_not_withstand_are_refused(world, colluders, threshold, most):
    """Their noise is left out of account, and still they have a site's upload, with its share of the noise only."""
    dp = SHARED_NOISE.model_copy(update={"colluders": colluders})
    given = {"dp": dp, "secure": SecureSpec(threshold=threshold), "training": TrainingSpec(batch_size=1)}
    found = texts(world.draft.model_copy(update=given), 5, topic="privacy", level="refused")
    if most is None:
        assert found == []
        world.plan(**given)
        return
    assert "3 of 5 sites open another's upload" in found[0]
    assert f"set dp.colluders = {most}, or raise secure.threshold" in found[0]
    with pytest.raises(ConfigError, match="with a coordinator that lies 3 of 5 sites"):
        world.plan(**given)


@pytest.mark.parametrize("dp", [SHARED_NOISE, DpSpec(mode="local", target_epsilon=8.0)])
def test_that_times_are_not_counted_is_said(world, dp):
    plan = world.plan(dp=dp, training=TrainingSpec(batch_size=1))
    assert "nor what the time of a reply tells" in texts(plan, topic="privacy", level="risk")[-1]


def test_differences_of_rounds_and_what_a_dropout_costs(world):
    def about(n, threshold, change):
        secure = SecureSpec(threshold=threshold, min_cohort_change=change)
        return texts(world.draft.model_copy(update={"secure": secure}), n, topic="differences")

    fact, price = about(5, 4, 2)
    assert "differ by at least two" in fact
    assert price.endswith(
        "After a round with all five sites, one that drops out is waited for; if it stays away, the run stops."
    )
    assert about(7, 5, 2)[1].endswith("the round goes on with five.")
    assert about(7, 5, 3)[1].endswith("the run stops.")
    assert len(about(3, 3, 2)) == 1, "where nobody may drop out there is no price"
    (risk,) = about(5, 4, 1)
    assert "may differ by one site" in risk
    draft = world.draft.model_copy(update={"secure": SecureSpec(mode="none")})
    assert texts(draft, 5, topic="differences") == []


def test_weights_by_size_name_share_and_effective_cohort(world):
    plan = world.plan(weighting=WeightingSpec(rule="size", count_min=100, count_max=300))
    risk = texts(plan, topic="weights", level="risk")[0]
    assert "a site that claims 300 weighs up to 50% of a round of 4" in risk
    assert "as good as 3.00 equal sites" in risk


SHARED = ValidationSet(name="shared", sha256="ab" * 32, examples=5, entity_types=("Drug",))


def test_weights_by_scores_say_what_is_published_and_what_a_lie_gains(world):
    spec = WeightingSpec(rule="influence", validation=SHARED, cap=0.4, size_bins={"ash": 3})
    plan = world.plan(weighting=spec)
    (fact,) = texts(plan, topic="weights", level="fact")
    assert "5 public examples (shared), times a size bin (ash 3; others 1)" in fact
    published, lie = texts(plan, topic="weights", level="risk")
    assert "in steps of 0.05 from 0 to 4. It can tell whether a single record was trained on: no noise" in published
    assert "weighs up to 40% of a round, not 1/4; no sum is worth fewer than 2.50 equal sites" in lie


def test_scores_of_held_out_notes_are_in_epsilon(world):
    private = PrivateScore(noise_multiplier=20.0, expected_units=400)
    dp, spec = DpSpec(mode="local", target_epsilon=4.0), WeightingSpec(rule="influence", private=private)
    plan = world.plan(weighting=spec, dp=dp, training=TrainingSpec(batch_size=1))
    stated = texts(plan, topic="weights")
    assert any("held-out notes (each site's own)" in text for text in stated)
    (told,) = [text for text in stated if "noise of 0.1 nats is added, and every round's score is in the ε" in text]
    alone = float(re.search(r"scores alone: ([0-9.]+)\)", told)[1])
    # z = 20 / sqrt(rounds) of one Gaussian: epsilon from its own equation (Balle and Wang 2018, theorem 8).
    mu, delta = math.sqrt(plan.rounds) / 20, plan.dp.target_delta
    given = norm.cdf(mu / 2 - alone / mu) - math.exp(alone) * norm.cdf(-mu / 2 - alone / mu)
    assert given == pytest.approx(delta, rel=0.5), "two digits of epsilon"


@pytest.mark.parametrize(("units", "level", "noise"), [(400, "fact", "0.1"), (40, "risk", "1")])
def test_weights_that_are_mostly_noise_are_a_risk(world, units, level, noise):
    private = PrivateScore(noise_multiplier=20.0, expected_units=units)
    dp, spec = DpSpec(mode="local", target_epsilon=4.0), WeightingSpec(rule="influence", private=private)
    plan = world.plan(weighting=spec, dp=dp, training=TrainingSpec(batch_size=1))
    (published,) = (t for t in texts(plan, topic="weights", level=level) if "publishes that loss" in t)
    assert f"noise of {noise} nats is added" in published
    warned = f"mostly noise: by chance alone a site weighs {math.e:.2g} times as much" in published
    assert warned == (level == "risk")


def test_scores_that_alone_exceed_the_target_are_named(world):
    private = PrivateScore(noise_multiplier=0.5, expected_units=40)
    dp, spec = DpSpec(mode="local", target_epsilon=4.0), WeightingSpec(rule="influence", private=private)
    draft = world.draft.model_copy(update={"weighting": spec, "dp": dp, "training": TrainingSpec(batch_size=1)})
    (refused,) = texts(draft, 5, topic="privacy", level="refused")
    alone = RdpFilter(RELATION).epsilon([GaussianEvent(0.5)] * draft.rounds, 1e-5)
    assert "found 0.5: the scores of 2 rounds alone cost epsilon " + f"{alone:.4g}" in refused
    assert "fewer steps" not in refused


@pytest.mark.parametrize(
    ("window", "said"), [("sentence", "one sentence of a note"), ("passage", "one passage of a note")]
)
def test_a_record_is_said_to_be_a_window_and_not_a_patient(world, window, said):
    task = world.draft.task.model_copy(update={"window": window})
    changes = {"task": task, "training": TrainingSpec(batch_size=1)}
    by_record = DpSpec(mode="local", unit="record", target_epsilon=4.0)
    (risk,) = (t for t in texts(world.plan(dp=by_record, **changes), level="risk") if t.startswith("A record is"))
    assert f"A record is {said}, not a patient: whoever has several is not bounded" in risk
    by_patient = by_record.model_copy(update={"unit": "patient"})
    assert "A record is" not in " ".join(texts(world.plan(dp=by_patient, **changes)))


def test_a_delta_that_promises_nothing_is_a_risk(world):
    def said(delta):
        dp = DpSpec(mode="local", target_epsilon=8.0, target_delta=delta)
        return " ".join(texts(world.draft.model_copy(update={"dp": dp}), 5, topic="privacy", level="risk"))

    assert "δ = 0.9 is no small chance" in said(0.9)
    assert "no small chance" not in said(1e-5)


@pytest.mark.parametrize(
    ("colluders", "whom"), [(0, " and is none of the sites"), (1, ", with at most one of their sites")]
)
def test_whom_distributed_noise_protects_from(world, colluders, whom):
    """Each site knows its own share: with no colluder counted the bound is about nobody who is one."""
    dp = DpSpec(mode="distributed", target_epsilon=8.0, colluders=colluders)
    (said,) = (t for t in texts(world.draft.model_copy(update={"dp": dp}), 5) if t.startswith("Differential privacy"))
    assert f"for whoever sees the sums{whom}" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": "local"}, "examples_per_round and gradient_clip do not apply"),
        ({"mode": "distributed", "steps": 500, "colluders": 2}, "gradient_clip and dp.steps do not apply"),
        ({"mode": "local", "colluders": 2, "keys_ahead": 3}, "gradient_clip, dp.colluders and dp.keys_ahead do not"),
        ({"mode": "local", "unit": "record", "max_records": 9}, "gradient_clip and dp.max_records do not apply"),
    ],
)
def test_what_was_set_and_does_nothing_is_named(world, changes, said):
    draft = world.draft.model_copy(update={"dp": DpSpec(target_epsilon=8.0, **changes)})
    assert any(said in text for text in texts(draft, 5, topic="privacy"))
    apart = draft.model_copy(update={"secure": draft.secure.model_copy(update={"min_cohort_change": 3})})
    assert any("secure.min_cohort_change do not apply" in text for text in texts(apart, 5, topic="privacy"))


@pytest.mark.parametrize(
    ("dp", "said"),
    [
        (DpSpec(), "each eight times, and signs"),
        (DpSpec(mode="local", unit="record", target_epsilon=8.0), "each eight times, and signs"),
        (DpSpec(mode="local", target_epsilon=8.0), "each eight times (as one patient, whose mean counts: more copies"),
        (DpSpec(mode="local", sampling="record", target_epsilon=8.0), "(as one patient, of whom at most 4 are used)"),
    ],
)
def test_copies_of_a_canary_are_one_patient(world, dp, said):
    draft = world.draft.model_copy(update={"canaries": CanarySpec(per_site=4, repeats=8), "dp": dp})
    assert said in texts(draft, 5, topic="canaries")[0]


def test_no_bound_for_replaced_content_is_no_infinity(world):
    noise = {"target_epsilon": 500.0, "noise_multiplier": 1.5, "sampling_rate": 0.5, "steps": 20}
    dp = DpSpec(mode="local", sampling="record", max_records=5, **noise)
    stated = " ".join(texts(world.plan(dp=dp, training=TrainingSpec(batch_size=1)), topic="privacy"))
    assert "(no bound for what it says instead of whether it is there)" in stated


def test_scores_of_private_updates_cost_nothing_more(world):
    dp = DpSpec(mode="local", target_epsilon=2.0)
    spec = WeightingSpec(rule="influence", validation=SHARED)
    plan = world.plan(weighting=spec, dp=dp, training=TrainingSpec(batch_size=1))
    assert any("costs nothing more" in text for text in texts(plan, topic="weights", level="fact"))


def test_bytes_are_those_of_the_masked_vector(world):
    d = 1_843_200
    words = SumParameters(FixedPoint.choose(Lanes.named("3x21"), 5, 0.5), d, 1, False).words
    up = 8 * words + 8
    (text,) = texts(world.plan(), coordinates=d, topic="bytes")
    assert f"sends {(up + 64) / 1e6:.2f} MB and receives {(4 * d + up) / 1e6:.2f} MB" in text
    assert texts(world.plan(), topic="bytes") == []
    assert "240 bytes" in texts(world.plan(), coordinates=63, topic="bytes")[0]
    plain = world.plan(secure=SecureSpec(mode="none", minimum_cohort=3))
    assert "232 bytes" in texts(plain, coordinates=63, topic="bytes")[0]


def test_baselines_that_cost_privacy_are_risks(world):
    plan = world.plan(evaluation=EvaluationSpec(baselines=("zero-shot", "single", "central")))
    found = texts(plan, topic="baselines", level="risk")
    assert [("published" in t, "pooled" in t) for t in found] == [(True, False), (False, True)]


def test_a_compiled_plan_counts_its_own_roster(world):
    smaller = Roster(coordinator=world.roster.coordinator, sites=dict(list(world.roster.sites.items())[:4]))
    assert texts(compile_plan(world.draft, smaller), sites=99, topic="collusion")[0].startswith("Four sites")


class TestGroups:
    def plan(self, world, **secure):
        spec = WeightingSpec(rule="group-influence", validation=SHARED, groups=2, cap=0.4)
        return world.draft.model_copy(update={"weighting": spec, "secure": SecureSpec(**({"threshold": 6} | secure))})

    def test_an_officer_reads_that_sums_are_over_fewer_sites(self, world):
        said = " ".join(s.text for s in explain(self.plan(world), sites=8))
        assert "it hides a site among three, not among eight" in said
        assert "together with two sites that the draw put into one group" in said
        assert "one of a group may drop out" in said
        assert "never one site's update" in said
        assert "Then a site weighs up to 40%" in said

    def test_groups_that_a_roster_cannot_fill_are_refused(self, world):
        (reason,) = (s.text for s in explain(self.plan(world, minimum_cohort=4), sites=7) if s.level == "refused")
        assert "leave 3 in the smallest" in reason


@pytest.mark.parametrize("sites", [5, 40])
def test_what_chance_may_give_is_said_of_all_sites(world, sites):
    """Of 100 runs of an adapter that remembers nothing, one has a site above the number that is given."""
    draft = world.draft.model_copy(update={"canaries": CanarySpec(per_site=8, candidates=1023)})
    (said,) = texts(draft, sites, topic="canaries")
    (most,) = re.findall(r"below ([0-9.]+) at all sites in 99 of 100 such runs", said)
    ranks = np.random.default_rng(2).integers(1, 1025, (5000, sites, 8))
    above = ((10 - np.log2(ranks)).mean(2) > float(most)).any(1).mean()
    assert above < 0.01 + 4 * math.sqrt(0.01 / 5000)
    (alone,) = texts(draft, topic="canaries")
    assert "at one site in 99 of 100" in alone


@pytest.mark.parametrize(("count", "said"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps")])
def test_one_of_a_thing_has_no_plural(count, said):
    assert plural(count, "step") == said
