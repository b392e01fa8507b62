from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsec.plan.specs import LoraSpec, ModelSpec
from fedsec.training.adapter import AdapterState, initial_adapter, load_peft
from fedsec.training.lora import attach_lora, get_adapter_state, lora_shapes, set_adapter_state, use_adapter
from fedsec.training.strategies import apply_update, local_update, shared_names, shared_vector
from fedsec_secure.errors import CodecError, ConfigError, LocalMisuseError

finite = st.floats(-1e6, 1e6, width=32)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).filter(
    lambda s: s != "__metadata__"
)
tensors = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=finite)
adapters = st.dictionaries(names, tensors, min_size=1, max_size=5).map(AdapterState)


@given(adapters)
def test_bytes_and_vectors_round_trip(adapter: AdapterState) -> None:
    assert AdapterState.from_bytes(adapter.to_bytes(), adapter.shapes) == adapter
    assert adapter.unflatten(adapter.flatten()) == adapter
    assert adapter.flatten().shape == (adapter.size,)
    assert list(adapter) == sorted(adapter)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_adapter_raise_codec_error(data: bytes) -> None:
    with pytest.raises(CodecError):
        AdapterState.from_bytes(data)


@given(adapters, st.data())
def test_damaged_bytes_give_an_adapter_or_codec_error(adapter: AdapterState, data: st.DataObject) -> None:
    blob = bytearray(adapter.to_bytes())
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = AdapterState.from_bytes(bytes(blob), adapter.shapes)
    except CodecError:
        return
    assert found.shapes == adapter.shapes
    assert np.isfinite(found.flatten()).all()


def test_digest_is_the_documented_encoding() -> None:
    value = np.array([[1.0, -2.5]], np.float32)
    expected = hashlib.sha256(
        b"fedsec/adapter/v1\0"
        + struct.pack(">I", 1)
        + struct.pack(">I", 1)
        + b"a"
        + b"\2"
        + struct.pack(">QQ", 1, 2)
        + struct.pack("<ff", 1.0, -2.5)
    ).digest()
    assert AdapterState({"a": value}).digest() == expected


def test_digest_tells_names_shapes_and_values_apart() -> None:
    one = np.zeros((2, 3), np.float32)
    variants = [{"a": one}, {"b": one}, {"a": one.reshape(3, 2)}, {"a": -one}, {"a": one, "b": one}]
    assert len({AdapterState(v).digest() for v in variants}) == len(variants)


def test_arrays_are_copies_and_read_only() -> None:
    source = np.zeros(3, np.float32)
    adapter = AdapterState({"a": source})
    source[0] = 7
    assert adapter["a"][0] == 0
    with pytest.raises(ValueError, match="read-only"):
        adapter["a"][0] = 1


@pytest.mark.parametrize(
    "bad",
    [np.zeros(2, np.float64), np.array([np.nan], np.float32), np.array([np.inf], np.float32), np.zeros(0, np.float32)],
)
def test_other_than_finite_float32_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(CodecError):
        AdapterState({"a": bad})


def test_wrong_names_or_shapes_are_refused(start) -> None:
    shapes = dict(start.shapes)
    first = next(iter(shapes))
    with pytest.raises(CodecError, match="expected"):
        AdapterState.from_bytes(start.to_bytes(), {**shapes, first: (1, 1)})
    with pytest.raises(CodecError, match="missing"):
        AdapterState.from_bytes(start.to_bytes(), {**shapes, "more": (1,)})
    with pytest.raises(LocalMisuseError, match="expected float32"):
        start.unflatten(np.zeros(start.size + 1, np.float32))


def test_initial_adapter_depends_on_the_seed_alone(tiny) -> None:
    lora = LoraSpec(rank=4)
    torch.manual_seed(1)
    first = initial_adapter(tiny, lora, 5)
    torch.manual_seed(2)
    assert initial_adapter(tiny, lora, 5) == first
    assert initial_adapter(tiny, lora, 6) != first
    for name, value in first.items():
        if ".lora_B." in name:
            assert not value.any()
        else:
            bound = 1 / np.sqrt(value.shape[1])
            assert np.abs(value).max() <= bound
            assert np.abs(value).max() > 0.8 * bound
    # The bits themselves: another platform or version that drew others would split a federation.
    assert first.digest().hex() == "60599e92392fd705b6eea9a166178c6e69a06635592424a42dca6bdeedb64f2a"


def test_names_and_shapes_are_those_of_peft(tiny, start) -> None:
    import peft

    model = attach_lora(tiny, LoraSpec(rank=4, alpha=8.0))
    set_adapter_state(model, start)
    theirs = peft.get_peft_model_state_dict(model)
    assert list(start) == sorted(theirs)
    assert all(np.array_equal(theirs[name].numpy(), start[name]) for name in start)
    assert get_adapter_state(model) == start
    assert lora_shapes(tiny, LoraSpec(rank=4)) == start.shapes


def test_saved_folder_loads_with_plain_peft(tiny, start, tmp_path) -> None:
    from peft import PeftModel

    from fedsec.training.tiny_model import tiny_model

    lora = LoraSpec(rank=4, alpha=8.0)
    noisy = start.unflatten(start.flatten() + np.float32(0.1))
    noisy.save_peft(tmp_path, ModelSpec(base="tiny-random"), lora)
    assert load_peft(tmp_path) == noisy
    plain = PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    ids = torch.arange(2, 30).unsqueeze(0)
    with use_adapter(tiny, lora, noisy):
        ours = tiny.model(input_ids=ids).logits
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, ours)
    with pytest.raises(ConfigError, match="no adapter_model"):
        load_peft(tmp_path / "nothing")


def test_without_adapter_the_base_answers(tiny, start) -> None:
    lora = LoraSpec(rank=4, alpha=8.0)
    ids = torch.arange(2, 30).unsqueeze(0)
    with use_adapter(tiny, lora, start.unflatten(start.flatten() + np.float32(0.1))):
        adapted = tiny.model(input_ids=ids).logits
    with use_adapter(tiny, None, None):
        plain = tiny.model(input_ids=ids).logits
    with use_adapter(tiny, lora, start):  # B is zero
        zero = tiny.model(input_ids=ids).logits
    assert torch.equal(plain, zero)
    assert not torch.equal(plain, adapted)


def test_unknown_target_names_what_there_is(tiny) -> None:
    with pytest.raises(ConfigError, match=r"no linear layer named c_attn.*q_proj"):
        initial_adapter(tiny, LoraSpec(targets=("q_proj", "c_attn")), 0)
    with pytest.raises(ConfigError, match="lm_head"):
        initial_adapter(tiny, LoraSpec(targets=("lm_head",)), 0)


def test_ffa_shares_the_b_factors_only(start) -> None:
    shared = shared_names("ffa", start, 0)
    assert len(shared) * 2 == len(start) == len(shared_names("fedit", start, 0))
    assert all(".lora_B." in name for name in shared)
    update = np.ones(shared_vector("ffa", start, 0).size, np.float32)
    after = apply_update("ffa", start, update, 0)
    assert np.array_equal(local_update("ffa", start, after, 0), update)
    assert all(np.array_equal(after[n], start[n]) for n in start if ".lora_A." in n)
    with pytest.raises(LocalMisuseError, match="frozen"):
        local_update("ffa", start, start.unflatten(start.flatten() + np.float32(1)), 0)
    with pytest.raises(LocalMisuseError, match="adapter vector"):
        apply_update("ffa", start, update[1:], 0)
