"""Where training is to run it is looked at whether batch-mates move a record's gradient, with made-up records."""

import math
from types import SimpleNamespace

import pytest
import torch

from fedsec.plan.specs import DpSpec, LoraSpec, ModelSpec
from fedsec.study import one_site, trial
from fedsec.training.base_model import load_base
from fedsec.training.private import loop, mates
from fedsec.training.private.mates import moved_by_mates, require_alone
from fedsec.training.private.mechanism import MOVED
from fedsec_secure.errors import ConfigError
from tests.e2e.federation import Keys, make_plan
from tests.unit.training.conftest import TINY, needs_smollm2

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
        ConfigError, match=r"alone and beside others, to 1e-06 of its norm, .* set training\.batch_size = 1"
    ):
        require_alone(base, plan_of(2))


def test_a_layer_that_mixes_records_is_found(monkeypatch):
    base = load_base(TINY)
    plain = base.model.model.norm.forward

    def mixed(hidden):
        return plain(hidden + 1e-4 * hidden.mean(0, keepdim=True))

    monkeypatch.setattr(base.model.model.norm, "forward", mixed)
    assert moved_by_mates(base, plan_of()) > 10 * MOVED


@needs_smollm2
@pytest.mark.slow
def test_mates_do_not_move_a_gradient_of_the_real_model_here(monkeypatch):
    base = load_base(ModelSpec(base="smollm2-135m", dtype="float32"))
    assert moved_by_mates(base, plan_of()) < MOVED / 10
    monkeypatch.setattr(loop, "LEAST_ROWS", 0)
    assert moved_by_mates(base, plan_of()) > MOVED


# ---- who looks


@pytest.fixture(params=[1.1e-6, 1e-3, math.inf, math.nan])
def moving(request, monkeypatch):
    """A machine on which mates move each other; what is not a number is too far as well."""
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
