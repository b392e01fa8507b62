"""What a plan refuses by itself: cohorts, thresholds, weights and rosters that could not protect."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.plan.cost import charged, cost, releases
from fedsec.plan.document import compile_plan, parse_canonical
from fedsec.plan.model import Draft, Plan, Roster, RosterSite
from fedsec.plan.specs import (
    CanarySpec,
    DpSpec,
    EvaluationSpec,
    ModelSpec,
    PrivateScore,
    PublicTest,
    SecureSpec,
    TaskSpec,
    TrainingSpec,
    ValidationSet,
    WeightingSpec,
)
from fedsec.plan.toml import override
from fedsec_secure.errors import CodecError, ConfigError
from fedsec_secure.identity.keys import SigningKey


def test_digest_is_of_the_canonical_bytes_and_survives_a_round_trip(world):
    plan = world.plan()
    again = parse_canonical(plan.canonical(), Plan, "plan.json")
    assert again == plan
    assert again.digest() == plan.digest()
    assert len(plan.digest()) == 32
    assert world.plan(rounds=3).digest() != plan.digest()


def test_the_order_in_which_sites_are_written_changes_nothing(world):
    roster = Roster(coordinator=world.roster.coordinator, sites=dict(reversed(world.roster.sites.items())))
    assert list(roster.sites) == sorted(roster.sites)
    assert compile_plan(world.draft, roster).digest() == world.plan().digest()


@pytest.mark.parametrize("change", [b" ", b"\n"])
def test_another_text_of_the_same_plan_is_refused(world, change):
    with pytest.raises(CodecError, match="canonical"):
        parse_canonical(world.plan().canonical() + change, Plan, "plan.json")


def test_duplicate_and_unknown_fields_are_refused(world):
    data = world.plan().canonical()
    with pytest.raises(CodecError, match="canonical"):
        parse_canonical(data.replace(b'"rounds":2', b'"rounds":9,"rounds":2'), Plan, "plan.json")
    with pytest.raises(CodecError, match="bypass"):
        parse_canonical(data.replace(b'"rounds":2', b'"bypass":1,"rounds":2'), Plan, "plan.json")
    with pytest.raises(CodecError, match="rounds"):
        parse_canonical(data.replace(b'"rounds":2', b'"rounds":"2"'), Plan, "plan.json")


@given(st.binary(max_size=300))
def test_junk_is_a_codec_error_and_nothing_else(data):
    with pytest.raises(CodecError):
        parse_canonical(data, Plan, "plan.json")


@pytest.mark.parametrize(
    ("n", "threshold", "cohort", "fits"),
    [
        (3, 3, 3, True),
        (3, 2, 3, False),
        (4, 3, 3, True),
        (5, 3, 3, False),
        (5, 4, 3, True),
        (5, 5, 3, True),
        (6, 4, 3, False),
        (6, 5, 3, True),
        (5, 6, 3, False),
        (5, 4, 6, False),
        (5, 4, 2, False),
        (2, 2, 2, False),
    ],
)
def test_threshold_and_cohort_against_the_number_of_sites(world, n, threshold, cohort, fits):
    def compiled():
        members = {
            f"s{i}": RosterSite(key=SigningKey.generate().public.hex, officer=SigningKey.generate().public.hex)
            for i in range(n)
        }
        draft = Draft(**{**dict(world.draft), "secure": SecureSpec(threshold=threshold, minimum_cohort=cohort)})
        return compile_plan(draft, Roster(coordinator=world.roster.coordinator, sites=members))

    if fits:
        assert compiled().secure.quorum == max(threshold, cohort)
    else:
        with pytest.raises((ConfigError, ValueError), match=r"threshold|cohort"):
            compiled()


def test_a_two_site_baseline_without_masks_is_a_plan(world):
    members = dict(list(world.roster.sites.items())[:2])
    changes = {"secure": SecureSpec(mode="none", minimum_cohort=2)}
    plan = compile_plan(
        world.draft.model_copy(update=changes), Roster(coordinator=world.roster.coordinator, sites=members)
    )
    assert plan.secure.quorum == 2


@given(
    low=st.integers(1, 1 << 24),
    high=st.integers(1, 1 << 24),
    quorum=st.integers(3, 40),
    cap=st.integers(1, 100).map(lambda c: c / 100),
)
def test_size_bounds_hold_the_cap_exactly(low, high, quorum, cap):
    weighting = WeightingSpec(rule="size", count_min=low, count_max=high, cap=cap)
    holds = low <= high and Fraction(high, high + (quorum - 1) * low) <= Fraction(str(cap))
    fields = {
        "name": "x",
        "model": ModelSpec(base="tiny-random"),
        "task": TaskSpec(kind="entities", entity_types=("Drug",)),
        "secure": SecureSpec(threshold=quorum, minimum_cohort=3),
        "weighting": weighting,
    }
    if holds:
        assert Draft(**fields).weighting == weighting
    else:
        with pytest.raises(ValueError, match=r"weigh|count_min"):
            Draft(**fields)


def test_the_bound_that_the_error_names_is_the_largest_that_passes(world):
    def weighting(high):
        return WeightingSpec(rule="size", count_min=10, count_max=high, cap=0.4)

    with pytest.raises(ConfigError, match="set count_max <= 20"):
        world.plan(weighting=weighting(1000))
    world.plan(weighting=weighting(20))
    with pytest.raises(ConfigError):
        world.plan(weighting=weighting(21))


def test_a_cap_that_equal_weights_break_is_refused(world):
    with pytest.raises(ConfigError, match=r"raise it|raise"):
        world.plan(weighting=WeightingSpec(rule="uniform", cap=0.2))


@pytest.mark.parametrize("role", ["coordinator", "site", "officer"])
def test_no_key_serves_two_roles(world, role):
    sites = dict(world.roster.sites)
    shared = sites["birch"].key
    coordinator = shared if role == "coordinator" else world.roster.coordinator
    if role != "coordinator":
        field = "key" if role == "site" else "officer"
        sites["ash"] = sites["ash"].model_copy(update={field: shared})
    with pytest.raises(ValueError, match="same key"):
        Roster(coordinator=coordinator, sites=sites)


@pytest.mark.parametrize("double", ["coordinator", "birch.key", "officer", "co_officer"])
def test_a_co_officer_has_a_key_of_their_own_and_the_order_does_not_matter(world, double):
    co = sorted(SigningKey.generate().public.hex for _ in range(2))
    ash, birch = world.roster.sites["ash"], world.roster.sites["birch"]

    def roster(*keys):
        changed = RosterSite(key=ash.key, officer=ash.officer, co_officers=keys)
        return Roster(coordinator=world.roster.coordinator, sites={**world.roster.sites, "ash": changed})

    assert roster(*co) == roster(*reversed(co))
    assert roster(*co).sites["ash"].officers == (ash.officer, *co)
    assert ("roster.sites.ash.co_officers.2", co[1]) in list(roster(*co).everyone())
    taken = {"coordinator": world.roster.coordinator, "birch.key": birch.key, "officer": ash.officer}
    with pytest.raises(ValueError, match="same key"):
        roster(*co, taken.get(double, co[0]))
    with pytest.raises(ValueError, match=r"co_officers\.1.*small order"):
        roster("01" + "00" * 31)


def test_a_key_of_small_order_never_enters_a_roster(world):
    with pytest.raises(ValueError, match=r"roster\.coordinator.*small order"):
        Roster(coordinator="01" + "00" * 31, sites=dict(world.roster.sites))


def test_no_site_is_called_coordinator(world):
    with pytest.raises(ValueError, match="coordinator"):
        Roster(coordinator=world.roster.coordinator, sites={"coordinator": world.roster.sites["ash"]})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model": ModelSpec(base="tiny-random")}, "weights_sha256 is missing"),
        ({"evaluation": EvaluationSpec(public_tests=(PublicTest(name="t", entity_types=("A",)),))}, "no sha256"),
        ({"task": TaskSpec(kind="entities", entity_types=("A",), relation_types=("r",))}, "goes without"),
        ({"task": TaskSpec(kind="relations", entity_types=("A",))}, "at least one"),
        ({"task": TaskSpec(kind="entities", entity_types=("A", "A"))}, "names A twice"),
        ({"evaluation": EvaluationSpec(baselines=("single", "single"))}, "names single twice"),
        ({"canaries": CanarySpec(per_site=1), "training": TrainingSpec(max_tokens=32)}, "a canary takes up to 64"),
    ],
)
def test_fields_that_contradict_each_other(world, changes, match):
    with pytest.raises(ConfigError, match=match):
        world.plan(**changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [(["dp.unit=record"], "a unit is one record"), (["dp.max_records=999"], "at most 256 are")],
)
def test_records_that_are_drawn_one_by_one_belong_to_a_patient_who_has_few(world, changes, match):
    private = ["model.dtype=float32", "dp.mode=local", "dp.target_epsilon=8.0", "dp.sampling=record"]
    assert override(world.draft, private).dp.sampling == "record"
    with pytest.raises(ConfigError, match=match):
        override(world.draft, [*private, *changes])


@pytest.mark.parametrize("mode", ["local", "distributed"])
@pytest.mark.parametrize(
    "coarse", [["model.dtype=bfloat16"], ["model.quantisation=nf4"], ["model.quantisation=int8"]], ids=lambda c: c[0]
)
def test_where_batch_mates_move_gradients_by_percents_private_records_are_alone(world, coarse, mode):
    private = [f"dp.mode={mode}", "dp.target_epsilon=8.0"]
    fine = ["model.dtype=float32", "training.batch_size=2"]
    assert override(world.draft, [*fine, *private]).dp.mode == mode
    assert override(world.draft, [*fine, *coarse]).training.batch_size == 2
    assert override(world.draft, [*fine, *coarse, *private, "training.batch_size=1"]).dp.mode == mode
    with pytest.raises(
        ConfigError, match=r"changes with its batch by percents; set training\.batch_size = 1, or model"
    ):
        override(world.draft, [*fine, *coarse, *private])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["dp.mode=local"], 'dp.mode is "local" without a target: set dp.target_epsilon'),
        (["dp.mode=distributed"], 'dp.mode is "distributed" without a target: set dp.target_epsilon'),
        (
            ["dp.mode=distributed", "dp.target_epsilon=8.0", 'evaluation.baselines=["single"]'],
            "its own adapter cannot be scored; drop it",
        ),
        (
            ["dp.mode=distributed", "dp.target_epsilon=8.0", "dp.colluders=4"],
            "dp.colluders is 4 of 4 sites in a sum: nobody would be left",
        ),
        (
            ["dp.mode=local", "dp.target_epsilon=8.0", 'evaluation.baselines=["central"]'],
            "pooled notes would be trained on without privacy; drop it",
        ),
        (
            ["dp.mode=distributed", "dp.target_epsilon=8.0", 'evaluation.baselines=["central"]'],
            "pooled notes would be trained on without privacy; drop it",
        ),
    ],
)
def test_a_draft_that_promises_what_it_cannot_hold_is_refused(world, changes, match):
    with pytest.raises(ConfigError, match=match):
        override(world.draft, ["model.dtype=float32", *changes])
    single = ["dp.mode=local", "dp.target_epsilon=8.0", 'evaluation.baselines=["single"]']
    assert override(world.draft, ["model.dtype=float32", *single]).evaluation.baselines == ("single",)


@pytest.mark.parametrize(
    ("mode", "missing"),
    [("local", "noise_multiplier"), ("local", "target_delta"), ("distributed", "target_delta"),
     ("distributed", "noise_multiplier"), ("distributed", "dimension")],
)  # fmt: skip
def test_a_plan_says_how_much_noise_there_is_and_on_how_many_coordinates(world, mode, missing):
    whole = DpSpec(mode=mode, target_epsilon=8.0, target_delta=1e-5, noise_multiplier=9.0, dimension=192)
    fields = dict(world.plan(training=TrainingSpec(batch_size=1)))
    assert Plan(**(fields | {"dp": whole})).dp == whole
    with pytest.raises(ValueError, match=rf"dp\.{missing}.* missing: "):
        Plan(**(fields | {"dp": whole.model_copy(update={missing: None})}))


def test_a_privacy_target_without_a_mode_that_holds_it_is_refused(world):
    with pytest.raises(ConfigError, match="nothing would hold it"):
        world.plan(dp=world.draft.dp.model_copy(update={"target_epsilon": 1.0}))


VALIDATION = ValidationSet(name="shared", sha256="ab" * 32, examples=5, entity_types=("Drug",))


def test_weights_by_scores_name_what_is_scored(world):
    plan = world.plan(weighting=WeightingSpec(rule="influence", validation=VALIDATION))
    assert plan.weighting.validation == VALIDATION
    with pytest.raises(ConfigError, match=r"with neither of \[weighting.validation\] and \[weighting.private\]"):
        world.plan(weighting=WeightingSpec(rule="influence"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": VALIDATION}, "weighting.validation is set: nothing would use it"),
        ({"size_bins": {"site-a": 3}}, "weighting.size_bins is set"),
        ({"effective_cohort": 2.0}, "weighting.effective_cohort is set"),
    ],
)
@pytest.mark.parametrize("rule", ["uniform", "size"])
def test_fields_that_nothing_would_use(world, rule, changes, message):
    with pytest.raises(ConfigError, match=message):
        world.plan(weighting=WeightingSpec(rule=rule, count_min=10, count_max=10, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": VALIDATION.model_copy(update={"examples": None})}, "no sha256 or examples"),
        ({"validation": VALIDATION.model_copy(update={"sha256": None})}, "no sha256 or examples"),
        ({"size_bins": {"nobody": 3}}, "names nobody, which is not on the roster"),
        ({"effective_cohort": 40.0}, "never worth more"),
        ({"size_bins": {"ash": 64}, "effective_cohort": 3.9}, r"a round is refused: .* worth 3.20 equal sites"),
        ({"cap": 0.2}, "no round could hold the cap"),
    ],
)
def test_rules_by_scores_that_cannot_hold(world, changes, message):
    fields = {"rule": "influence", "validation": VALIDATION} | changes
    with pytest.raises(ConfigError, match=message):
        world.plan(weighting=WeightingSpec(**fields))


def test_weights_are_not_drawn_from_a_test_set(world):
    test = PublicTest(name="shared", sha256="ab" * 32, entity_types=("Drug",))
    with pytest.raises(ConfigError, match="results on it would be fitted to it"):
        world.plan(
            weighting=WeightingSpec(rule="influence", validation=VALIDATION),
            evaluation=EvaluationSpec(public_tests=(test,)),
        )


NOISY = PrivateScore(noise_multiplier=20.0, expected_units=40)
LOCAL = {"dp": DpSpec(mode="local", target_epsilon=4.0), "training": TrainingSpec(batch_size=1)}


def test_scores_on_held_out_notes_go_with_local_privacy_only(world):
    spec = WeightingSpec(rule="influence", private=NOISY)
    assert world.plan(weighting=spec, **LOCAL).weighting.private == NOISY
    with pytest.raises(ConfigError, match=r"with dp\.mode none: its noise would hide"):
        world.plan(weighting=spec)
    with pytest.raises(ConfigError, match="with both of"):
        world.plan(weighting=WeightingSpec(rule="influence", private=NOISY, validation=VALIDATION), **LOCAL)
    with pytest.raises(ConfigError, match=r"weighting\.private is set: nothing would use it"):
        world.plan(weighting=WeightingSpec(private=NOISY), **LOCAL)


def test_scores_on_held_out_notes_count_within_the_target(world):
    without = world.plan(**LOCAL)
    plan = world.plan(weighting=WeightingSpec(rule="influence", private=NOISY), **LOCAL)
    assert charged(plan) <= 4.0
    assert plan.dp.noise_multiplier > without.dp.noise_multiplier
    same = plan.model_copy(update={"dp": without.dp})
    assert charged(same) > charged(without)
    assert cost(same).epsilon > cost(without).epsilon
    purposes = [(number, purpose) for number, purpose, _ in releases(plan)]
    assert purposes == [(0, "update"), (1, "update"), (0, "score"), (1, "score")]
    loud = PrivateScore(noise_multiplier=0.2, expected_units=40)
    for dp in (LOCAL["dp"], LOCAL["dp"].model_copy(update={"noise_multiplier": 3.0})):
        with pytest.raises(
            ConfigError, match=r"expected a weighting\.private\.noise_multiplier .*scores of 2 rounds alone"
        ):
            world.plan(weighting=WeightingSpec(rule="influence", private=loud), **(LOCAL | {"dp": dp}))


def test_a_target_that_hardly_any_noise_meets_gets_the_least_that_there_is(world):
    plan = world.plan(dp=DpSpec(mode="local", target_epsilon=1e6), training=TrainingSpec(batch_size=1))
    assert plan.dp.noise_multiplier == 0.125
    assert charged(plan) < 1e6


@pytest.mark.parametrize("size", [0, 65])
def test_size_bins_are_coarse(size):
    with pytest.raises(ValueError, match="size_bins"):
        WeightingSpec(rule="influence", size_bins={"site-a": size})


def test_size_bins_have_one_order():
    assert list(WeightingSpec(size_bins={"site-b": 1, "site-a": 2}).size_bins) == ["site-a", "site-b"]
