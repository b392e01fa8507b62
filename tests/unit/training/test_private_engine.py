"""What holds of a pass whatever the engine: records do not see each other, and nothing stays behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import peft
import pytest
import torch

from fedsec.plan.specs import LoraSpec, ModelSpec
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.base_model import load_base
from fedsec.training.batches import Encoded
from fedsec.training.lora import attach_lora, lora_parameters, set_adapter_state
from fedsec.training.objective import record_losses
from fedsec.training.private.buckets import STEP, bucket_width, collate_bucket, group_by_bucket
from fedsec.training.private.engine import engine_of
from fedsec.training.private.per_sample import PerSampleLora
from fedsec.training.private.record_dropout import RecordDropout, Records
from fedsec_secure.errors import ConfigError, LocalMisuseError
from tests.unit.training.private_models import KEYS, LENGTHS, build, by_definition, deviation, losses, tokens
from tests.unit.training.private_models import token_losses as token_losses_of
from tests.unit.training.test_private_agreement import engines

LORA = LoraSpec(rank=3, alpha=6.0, dropout=0.2, targets=("q_proj", "v_proj", "down_proj"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def plan_model():
    """A base and its LoRA modules as a run attaches them: fused layers, and seeded dropout."""
    base = load_base(ModelSpec(base="tiny-random", dtype="float32"))
    model = attach_lora(base, LORA)
    state = initial_adapter(base, LORA, 0)
    set_adapter_state(model, AdapterState({n: t + 0.05 if ".lora_B." in n else t for n, t in state.items()}))
    for parameter in lora_parameters(model).values():
        parameter.requires_grad_(True)
    model.train()
    return base, model


def encoded(lengths: tuple[int, ...], seed: int = 0) -> list[Encoded]:
    g = torch.Generator().manual_seed(seed)
    return [Encoded(tuple(torch.randint(2, 258, (n,), generator=g).tolist()), n // 2, False) for n in lengths]


def bucketed(engine: PerSampleLora, base, records: list[Encoded], keys: list[bytes]) -> dict[str, torch.Tensor]:
    batch = collate_bucket(records, base.pad_token)
    return engine.gradients(keys, lambda: record_losses(base, batch).per_record())


def relative(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """||found - expected|| / ||expected|| of one record, over all tensors."""
    difference = sum(float((found[n] - expected[n]).double().square().sum()) for n in expected)
    return (difference / sum(float(v.double().square().sum()) for v in expected.values())) ** 0.5


def test_mates_of_a_batch_of_the_same_shape_change_no_bit(plan_model) -> None:
    base, model = plan_model
    first, *mates = encoded((40, 61, 45, 33))
    others = encoded((63, 34, 50), seed=9)  # the same bucket, other lengths and words
    with PerSampleLora(model) as engine:
        one = bucketed(engine, base, [first, *mates], [b"a", b"b", b"c", b"d"])
        two = bucketed(engine, base, [first, *others], [b"a", b"x", b"y", b"z"])
    for name, value in one.items():
        assert torch.equal(value[0], two[name][0]), name
        assert not torch.equal(value[1], two[name][1])


@pytest.mark.parametrize("mates", [0, 1, 2, 6])
def test_mates_of_other_number_and_place_change_at_most_the_rounding(plan_model, mates) -> None:
    base, model = plan_model
    first, *others = encoded((40, 61, 45, 33, 50, 36, 57))
    with PerSampleLora(model) as engine:
        alone = bucketed(engine, base, [first], [b"a"])
        keys = [b"%d" % i for i in range(mates)]
        last = bucketed(engine, base, [*others[:mates], first], [*keys, b"a"])
    worst = relative({n: v[-1] for n, v in last.items()}, {n: v[0] for n, v in alone.items()})
    assert worst <= 1e-6


def test_a_mean_over_the_batchs_tokens_couples_records_and_is_noticed(plan_model) -> None:
    base, model = plan_model
    first, mate = encoded((40, 45))
    longer = encoded((63,), seed=3)[0]

    def gradient(other: Encoded, trap: bool) -> dict[str, torch.Tensor]:
        batch = collate_bucket([first, other], base.pad_token)

        def values() -> torch.Tensor:
            result = record_losses(base, batch)
            return result.sums / result.tokens.sum() if trap else result.per_record()

        found = engine.gradients([b"a", b"b"], values)
        return {name: value[0] for name, value in found.items()}

    with PerSampleLora(model) as engine:
        assert relative(gradient(mate, False), gradient(longer, False)) <= 1e-6
        assert relative(gradient(mate, True), gradient(longer, True)) > 0.1


@engines
def test_a_batch_loss_is_refused(name) -> None:
    model, batch = build("llama"), tokens()
    with engine_of(name)(model) as engine:
        for wrong in (
            lambda: losses(model, batch).mean(),
            lambda: token_losses_of(model, batch).flatten(),
            lambda: losses(model, batch).detach(),
        ):
            with pytest.raises(LocalMisuseError, match="loss for each of 4 records"):
                engine.gradients(KEYS, wrong)
            assert not any(getattr(module, "activations", None) for module in model.modules())
        expected = by_definition(model, [batch[row : row + 1] for row in range(len(LENGTHS))])
        assert deviation(engine.gradients(KEYS, lambda: losses(model, batch)), expected) <= 1e-6


@engines
def test_no_records_give_zeros_without_a_forward_pass(name) -> None:
    model = build("llama")

    def never() -> torch.Tensor:
        raise AssertionError("the forward pass ran")

    with engine_of(name)(model) as engine:
        found = engine.gradients([], never)
        assert {n: v.shape for n, v in found.items()} == {n: (0, *p.shape) for n, p in engine.parameters.items()}
        total, norms = engine.clipped_sum([], never, 1.0)
        assert norms.shape == (0,)
        assert {n: v.shape for n, v in total.items()} == {n: p.shape for n, p in engine.parameters.items()}
        assert all(bool((v == 0).all()) for v in total.values())


@engines
def test_closing_puts_everything_back_and_leaves_no_gradient(name, plan_model) -> None:
    base, model = plan_model
    layers = [m for m in model.modules() if hasattr(m, "lora_dropout")]
    before = [(layer.forward, layer.lora_dropout["default"]) for layer in layers]
    batch = collate_bucket(encoded((20, 25)), base.pad_token)
    with engine_of(name)(model) as engine:
        assert [(layer.forward, layer.lora_dropout["default"]) for layer in layers] != before
        engine.gradients([b"a", b"b"], lambda: record_losses(base, batch).per_record())
        with pytest.raises(LocalMisuseError, match="engine already"):
            PerSampleLora(model)
    assert [(layer.forward, layer.lora_dropout["default"]) for layer in layers] == before
    assert not model.get_base_model().get_decoder()._forward_pre_hooks
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    for parameter in lora_parameters(model).values():
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")
    with pytest.raises(LocalMisuseError, match="closed"):
        engine.gradients([b"a"], lambda: torch.zeros(1))
    base.lora.dropout.value = b"seed"
    record_losses(base, batch).token_mean().backward()
    assert all(p.grad is not None for p in lora_parameters(model).values())


@engines
def test_a_run_s_own_layers_and_objective_give_the_same_alone_and_together(name, plan_model) -> None:
    base, model = plan_model
    records = encoded((40, 61, 45))
    keys = [b"a", b"b", b"c"]
    with engine_of(name)(model) as engine:
        batch = collate_bucket(records, base.pad_token)
        together = engine.gradients(keys, lambda: record_losses(base, batch).per_record())
        alone = []
        for key, record in zip(keys, records, strict=True):
            one = collate_bucket([record], base.pad_token)
            alone.append(engine.gradients([key], lambda one=one: record_losses(base, one).sums))
        counts = [len(r) - r.answer_start for r in records]
    for row, count in enumerate(counts):
        one = {n: v[0] / count for n, v in alone[row].items()}  # the sum over its tokens is count times the mean
        assert relative({n: v[row] for n, v in together.items()}, one) <= 2e-6


@engines
def test_a_layer_used_twice_adds_up(name) -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(5, 5, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(torch.tanh(self.inner(x)))

    torch.manual_seed(0)
    model = peft.get_peft_model(Twice().double(), peft.LoraConfig(r=2, target_modules=["inner"])).double().train()
    for parameter in lora_parameters(model).values():
        torch.nn.init.normal_(parameter)
    for shape in ((3, 5), (3, 4, 5), (3, 2, 2, 5)):
        x = torch.randn(shape, dtype=torch.float64)
        with engine_of(name)(model) as engine:
            found = engine.gradients([b"1", b"2", b"3"], lambda x=x: model(x).reshape(3, -1).square().sum(1))
        for row in range(3):
            expected = torch.autograd.grad(model(x[row]).square().sum(), list(lora_parameters(model).values()))
            for value, (factor, rows) in zip(expected, found.items(), strict=True):
                assert torch.allclose(rows[row], value, rtol=1e-12, atol=0), (factor, shape)
    with engine_of(name)(model) as engine, pytest.raises(LocalMisuseError, match="records first"):
        engine.gradients([b"1", b"2"], lambda: model(torch.randn(3, 2, 5, dtype=torch.float64)).sum((0, 2)))


@engines
def test_what_would_give_wrong_gradients_is_refused(name) -> None:
    model, batch = build("llama"), tokens()
    with engine_of(name)(model) as engine:
        model.eval()
        with pytest.raises(LocalMisuseError, match="training mode"):
            engine.gradients(KEYS, lambda: losses(model, batch))
        model.train()
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match="autocast"):
            engine.gradients(KEYS, lambda: losses(model, batch))
        with model.disable_adapter(), pytest.raises(LocalMisuseError):
            engine.gradients(KEYS, lambda: losses(model, batch))
        first = next(iter(lora_parameters(model).values()))
        first.requires_grad_(False)
        with pytest.raises(LocalMisuseError, match="other factors"):
            engine.gradients(KEYS, lambda: losses(model, batch))
    for parameter in lora_parameters(model).values():
        parameter.requires_grad_(False)
    with pytest.raises(LocalMisuseError, match="requires_grad"):
        engine_of(name)(model)


@engines
def test_a_loss_that_a_factor_has_no_part_in_is_refused(name) -> None:
    """As what goes with too few tensors would be a sum of which nobody noticed that a part is missing."""
    model, batch = build("llama"), tokens()

    def of_the_first_layer() -> torch.Tensor:
        found = model(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True, use_cache=False)
        return found.hidden_states[1].square().mean((1, 2))

    with engine_of(name)(model) as engine, pytest.raises(LocalMisuseError, match=r"no gradient reached .*layers\.1\."):
        engine.gradients(KEYS, of_the_first_layer)


def test_reentrant_checkpointing_without_gradients_of_the_input_is_noticed() -> None:
    model, batch = build("llama"), tokens()
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": True})
    model.get_base_model().disable_input_require_grads()
    with PerSampleLora(model) as engine, pytest.raises(LocalMisuseError):
        engine.gradients(KEYS, lambda: losses(model, batch))


def test_a_graph_of_an_earlier_pass_adds_nothing_to_a_later_one() -> None:
    model, batch = build("llama"), tokens()
    kept: list[torch.Tensor] = []

    def keep() -> torch.Tensor:
        kept.append(losses(model, batch))
        return kept[-1] * 1.0

    with PerSampleLora(model) as engine:
        original, torch.autograd.backward = torch.autograd.backward, lambda t: original(t, retain_graph=True)
        try:
            engine.gradients(KEYS, keep)
        finally:
            torch.autograd.backward = original
        with pytest.raises(LocalMisuseError, match="outside a pass"):
            kept[0].sum().backward()


def test_engines_are_found_by_name(monkeypatch) -> None:
    assert engine_of("own") is PerSampleLora
    with pytest.raises(ConfigError, match="own, opacus, found 'ghost'"):
        engine_of("ghost")
    monkeypatch.setitem(sys.modules, "opacus.grad_sample", None)
    model = build("llama")
    with pytest.raises(ConfigError, match="pip install"):
        engine_of("opacus")(model)
    assert not any(isinstance(m, RecordDropout) for m in model.modules())


def test_a_record_s_mask_is_its_own() -> None:
    records = Records((b"a", b"b"))
    dropout = RecordDropout(0.4, "q", records)
    mask = dropout.mask(torch.ones(2, 50, 7))
    assert mask is not None
    records.keys = (b"c", b"b", b"a")
    again = dropout.mask(torch.ones(3, 50, 7))
    assert torch.equal(again[2], mask[0])
    assert torch.equal(again[1], mask[1])
    assert not torch.equal(again[0], mask[0])
    assert abs(float((mask == 0).float().mean()) - 0.4) < 4 * (0.24 / mask.numel()) ** 0.5
    assert torch.equal(dropout.mask(torch.ones(3, 60, 7))[2, :50], mask[0]), "padding on the right moves nothing"
    assert not torch.equal(RecordDropout(0.4, "k", records).mask(torch.ones(3, 50, 7)), again)
    for keys in (None, (b"a",)):
        records.keys = keys
        with pytest.raises(LocalMisuseError, match="expected 2 records"):
            dropout(torch.ones(2, 5))


def test_buckets_are_a_function_of_the_record_alone() -> None:
    assert [bucket_width(n) for n in (1, STEP - 1, STEP, STEP + 1, 2 * STEP)] == [STEP, STEP, *[2 * STEP] * 2, 3 * STEP]
    lengths = [5, 40, 6, 70, 7, 41, 8]
    groups = group_by_bucket(lengths, 3)
    assert groups == [[0, 2, 4], [6], [1, 5], [3]]
    batch = collate_bucket(encoded((5, 6, 7)), 1)
    assert batch.input_ids.shape == batch.attention_mask.shape == (3, STEP)
    assert batch.attention_mask.sum(1).tolist() == [5, 6, 7]
    assert bool((batch.input_ids[batch.attention_mask == 0] == 1).all())
    with pytest.raises(LocalMisuseError, match="one width"):
        collate_bucket(encoded((5, 40)), 1)
    for wrong in (lambda: bucket_width(0), lambda: group_by_bucket([3], 0)):
        with pytest.raises(LocalMisuseError, match="at least 1"):
            wrong()
