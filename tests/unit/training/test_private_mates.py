"""Where training is to run it is looked at whether batch-mates move a record's gradient, with made-up records."""

import math
from types import SimpleNamespace

import pytest
import torch

from fedsec.plan.specs import DpSpec, LoraSpec, ModelSpec
from fedsec.study import one_site, trial
from fedsec.training.base_model import load_base
from fedsec.training.private import loop, mates
from fedsec.training.private.buckets import MOST_TOGETHER, bucket_width
from fedsec.training.private.loop import Private, PrivateRound
from fedsec.training.private.mates import moved_by_mates, require_alone
from fedsec.training.private.mechanism import MATES, MOVED, SLACK
from fedsec.training.private.per_sample import Sink
from fedsec.training.round import Position
from fedsec_secure.errors import ConfigError
from tests.e2e.federation import Keys, make_plan
from tests.unit.training.conftest import LORA, TINY, make_examples, needs_smollm2

KEYS = Keys.generate(3)


def plan_of(batch_size=8, mode="local", strategy="fedit"):
    dp = DpSpec(mode=mode, target_epsilon=8.0, dimension=64 if mode == "distributed" else None)
    plan = make_plan(KEYS, dp=dp)
    training = plan.training.model_copy(update={"batch_size": batch_size})
    return plan.model_copy(update={"training": training, "lora": LoraSpec(rank=4, alpha=8.0, strategy=strategy)})


def wide_headed():
    """The tiny model with a head as wide as real ones."""
    base = load_base(TINY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base.model.config.tie_word_embeddings = False
        base.model.lm_head = torch.nn.Linear(16, 1 << 16, bias=False).requires_grad_(False)
    return base


@pytest.mark.parametrize("batch_size", [2, 8, 64])
@pytest.mark.parametrize("strategy", ["fedit", "fed-sb"])
def test_mates_do_not_move_a_gradient_here(tiny, strategy, batch_size):
    assert moved_by_mates(tiny, plan_of(batch_size, strategy=strategy)) < MOVED / 10


def test_a_head_that_sees_how_many_rows_there_are_is_found(monkeypatch):
    base = wide_headed()
    require_alone(base, plan_of(2))
    monkeypatch.setattr(loop, "LEAST_ROWS", 0)
    with pytest.raises(
        ConfigError, match=r"alone and beside others, to 5e-07 of its norm, .* set training\.batch_size = 1"
    ):
        require_alone(base, plan_of(2))


def test_a_layer_that_mixes_records_is_found(monkeypatch):
    base = load_base(TINY)
    plain = base.model.model.norm.forward

    def mixed(hidden):
        return plain(hidden + 1e-4 * hidden.mean(0, keepdim=True))

    monkeypatch.setattr(base.model.model.norm, "forward", mixed)
    assert moved_by_mates(base, plan_of()) > 10 * MOVED


@pytest.fixture
def scaled(monkeypatch):
    """Each tensor of per-sample gradients is multiplied by what a test says of its name and itself."""
    plain = Sink.add

    def by(factor):
        monkeypatch.setattr(Sink, "add", lambda self, name, found: plain(self, name, found * factor(name, found)))

    return by


@pytest.mark.parametrize("batch_size", [2, 3, 4, 5, 6, 7, 8, 12, 24, 64])
def test_whole_batches_are_looked_at_at_every_width(monkeypatch, tiny, batch_size):
    """Also where a length has a few made-up records more than one batch holds."""
    seen: dict[int, set[int]] = {}

    def watched(self, records):
        seen.setdefault(bucket_width(len(self._encoded[records[0]])), set()).add(len(records))
        return plain(self, records)

    plain = loop.UnitGradients._pass
    monkeypatch.setattr(loop.UnitGradients, "_pass", watched)
    moved_by_mates(tiny, plan_of(batch_size))
    assert set(seen) == {32, 96, 128}
    assert all({1, 2, batch_size} == sizes for sizes in seen.values())


def test_no_more_are_computed_at_a_time_than_are_looked_at(monkeypatch, tiny, start):
    sizes, plain = [], loop.UnitGradients._pass
    monkeypatch.setattr(loop.UnitGradients, "_pass", lambda self, r: (sizes.append(len(r)), plain(self, r))[1])
    spec = plan_of(4096).training
    run = PrivateRound(tiny, start, make_examples(150), spec, LORA, Private(plan_of().dp), Position(0, 1))
    with run.started():
        run.gradients.clipped_sum([[i] for i in range(150)])
    trained = max(sizes)
    moved_by_mates(tiny, plan_of(4096))
    assert trained == max(sizes) == MOST_TOGETHER == 64


def test_a_rank_that_only_a_site_has_is_looked_at(scaled, tiny):
    scaled(lambda _, gradient: 1 + 1e-5 * (len(gradient) > 1 and 1 in gradient.shape[1:]))
    plan = plan_of()
    require_alone(tiny, plan)
    lora = plan.lora.model_copy(update={"site_ranks": {"ward": 1}})
    with pytest.raises(ConfigError, match="moves it by"):
        require_alone(tiny, plan.model_copy(update={"lora": lora}))


@pytest.mark.parametrize(("strategy", "factor"), [("ffa", "A"), ("fedsvd", "A"), ("rolora", "A"), ("rolora", "B")])
def test_what_is_not_trained_hides_nothing(scaled, tiny, strategy, factor):
    """Far longer gradients of the factor that a round does not train, which stand still, would."""
    scaled(lambda name, gradient: 1e4 if f"lora_{factor}" in name else 1 + 1e-5 * (len(gradient) > 1))
    with pytest.raises(ConfigError, match="moves it by"):
        require_alone(tiny, plan_of(strategy=strategy))
    require_alone(tiny, plan_of())  # where both are trained, it is as little of the whole


def test_two_batches_may_move_a_record_apart(scaled, tiny, start):
    """Either by less than a unit may, and it is a unit that makes the one batch the other."""
    scaled(lambda _, gradient: {1: 1, 2: 1 + 9e-7}.get(len(gradient), 1 - 9e-7))
    assert MOVED / 2 < moved_by_mates(tiny, plan_of()) < MOVED
    plan = plan_of()
    lora, alike = LORA.model_copy(update={"dropout": 0.0}), [make_examples(1)[0]] * 3
    run = PrivateRound(tiny, start, alike, plan.training, lora, Private(plan.dp), Position(0, 1))
    with run.started():
        two, three = (mates._row(mates._gradients(run, range(n)), 0) for n in (2, 3))
    assert MATES * mates._distance(two, three, list(two)) > SLACK  # so many move by more than the noise is sized for
    with pytest.raises(ConfigError, match="moves it by"):
        require_alone(tiny, plan_of())


def test_what_is_no_number_beside_others_is_found(scaled, tiny):
    scaled(lambda _, gradient: math.nan if len(gradient) > 2 else 1)
    assert moved_by_mates(tiny, plan_of()) == math.inf


@needs_smollm2
@pytest.mark.slow
def test_mates_do_not_move_a_gradient_of_the_real_model_here(monkeypatch):
    base = load_base(ModelSpec(base="smollm2-135m", dtype="float32"))
    assert moved_by_mates(base, plan_of()) < MOVED / 10
    monkeypatch.setattr(loop, "LEAST_ROWS", 0)
    assert moved_by_mates(base, plan_of()) > MOVED


# ---- who looks


@pytest.fixture(params=[5.1e-7, 1e-3, math.inf, math.nan])
def moving(request, monkeypatch):
    """A machine on which mates move each other; what is not a number is too far as well.

    Half of what the noise has room for is too far: a unit more takes a record from one batch to another, and either may
    have moved it so far, to one side and to the other.
    """
    monkeypatch.setattr(mates, "moved_by_mates", lambda *_: request.param)


def test_nothing_is_looked_at_where_no_record_has_mates(tiny, moving):
    with pytest.raises(ConfigError, match=r"training\.batch_size 2 moves it by"):
        require_alone(tiny, plan_of(2))
    for alone in (plan_of(1), plan_of(2, mode="distributed"), make_plan(KEYS)):
        require_alone(tiny, alone)


def test_a_site_that_joins_looks_before_its_notes_are_read(tmp_path, tiny, moving, monkeypatch):
    monkeypatch.setattr(one_site, "authorise_site", lambda *_: b"")
    monkeypatch.setattr(one_site, "read_toml", lambda *_: None)
    monkeypatch.setattr(one_site, "require_units", lambda *_: None)
    monkeypatch.setattr(one_site, "load_base", lambda _: tiny)
    monkeypatch.setattr(one_site, "load_training", lambda *_: pytest.fail("notes were read"))
    site = SimpleNamespace(policy_path=None, file=None, public_path=tmp_path)
    with pytest.raises(ConfigError, match="moves it by"):
        one_site.open_one_site(site, plan_of(), tmp_path, lambda _: None, None)


def test_a_site_s_own_check_looks(tiny, moving, monkeypatch, examples):
    monkeypatch.setattr(trial, "load_base", lambda _: tiny)
    with pytest.raises(ConfigError, match="moves it by"):
        trial.try_training(plan_of(), examples, 4, 2)
