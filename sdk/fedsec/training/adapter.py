"""LoRA adapters as values: an immutable, canonically ordered mapping from PEFT's parameter names to float32 arrays.

Everything that travels, is summed or is signed is an `AdapterState`; torch modules only ever hold a copy of one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from fedsec.plan.specs import LoraSpec, ModelSpec
from fedsec_secure.errors import CodecError, ConfigError, LocalMisuseError

if TYPE_CHECKING:
    from fedsec.training.base_model import BaseModel

Float32Array = npt.NDArray[np.float32]

_DIGEST_DOMAIN = b"fedsec/adapter/v1\0"
_SEED_DOMAIN = b"fedsec/initial-adapter/v1\0"
_MAX_PARAMETERS = 1 << 31


class AdapterState(Mapping[str, Float32Array]):
    """Name -> read-only C-contiguous float32 array, in ascending order of names (code points).

    Names are those of ``peft.get_peft_model_state_dict``. The constructor copies, and raises CodecError for an empty
    mapping, another dtype than float32, or a value that is not finite.
    """

    def __init__(self, tensors: Mapping[str, Float32Array]) -> None:
        if not tensors:
            raise CodecError("an adapter needs at least one tensor, found none")
        self._tensors = {name: _frozen_copy(name, tensors[name]) for name in sorted(tensors)}
        self._digest: bytes | None = None

    def __getitem__(self, name: str) -> Float32Array:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        """Bitwise equality of names, shapes and values (0.0 and -0.0 differ)."""
        return isinstance(other, AdapterState) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __repr__(self) -> str:
        return f"AdapterState(tensors={len(self)}, parameters={self.size})"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, in canonical order."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    @property
    def size(self) -> int:
        """Number of parameters d."""
        return sum(tensor.size for tensor in self._tensors.values())

    def flatten(self) -> Float32Array:
        """All values as one float32 vector of length d: tensors in canonical order, each in row-major order."""
        return np.concatenate([tensor.reshape(-1) for tensor in self._tensors.values()])

    def unflatten(self, vector: Float32Array) -> AdapterState:
        """An adapter of this one's names and shapes with the values of ``vector`` (float32[d]), inverse of flatten."""
        return self.replaced(self._tensors, vector)

    def select(self, names: Iterable[str]) -> Float32Array:
        """The values of some tensors as one float32 vector, in canonical order whatever the order of ``names``."""
        wanted = self._known(names)
        return np.concatenate([self._tensors[name].reshape(-1) for name in wanted])

    def replaced(self, names: Iterable[str], vector: Float32Array) -> AdapterState:
        """A copy in which the tensors ``names`` take the values of ``vector``, laid out as `select` gives them."""
        return AdapterState(dict(self._tensors) | self._split(names, vector))

    def moved(self, names: Iterable[str], vector: Float32Array) -> AdapterState:
        """A copy in which ``vector``, laid out as `select` gives it, is added to the tensors ``names`` (float32 sums).

        Besides the result nothing of the adapter's size is allocated; tensors that do not move are shared.
        """
        moved = {name: _frozen(name, self._tensors[name] + part) for name, part in self._split(names, vector).items()}
        state = AdapterState.__new__(AdapterState)
        state._tensors = self._tensors | moved  # read-only arrays: those that stay need no copy
        state._digest = None
        return state

    def _split(self, names: Iterable[str], vector: Float32Array) -> dict[str, Float32Array]:
        """Views of ``vector`` in the shapes of the tensors ``names``."""
        wanted = self._known(names)
        expected = sum(self._tensors[name].size for name in wanted)
        if vector.dtype != np.float32 or vector.shape != (expected,):
            raise LocalMisuseError(
                f"adapter vector: expected float32[{expected}], found {vector.dtype}{list(vector.shape)}"
            )
        ends = np.cumsum([self._tensors[name].size for name in wanted])
        parts = np.split(vector, ends[:-1])
        return {name: part.reshape(self._tensors[name].shape) for name, part in zip(wanted, parts, strict=True)}

    def digest(self) -> bytes:
        """SHA-256, 32 bytes, over domain, count and, in canonical order, each name, shape and little-endian values."""
        digest = self._digest or self._hash()
        self._digest = digest
        return digest

    def to_bytes(self) -> bytes:
        """Serialise as safetensors."""
        return bytes(safetensors.numpy.save(dict(self._tensors)))

    @classmethod
    def from_bytes(cls, data: bytes, shapes: Mapping[str, tuple[int, ...]] | None = None) -> AdapterState:
        """Parse safetensors bytes; ``shapes``, where given, are the only names and shapes that are accepted.

        Raises CodecError for anything else than finite float32 tensors of those names and shapes.
        """
        try:
            tensors = safetensors.numpy.load(data)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CodecError(f"adapter of {len(data)} bytes is not readable as safetensors") from error
        state = cls(tensors)
        if shapes is not None:
            state.require_shapes(shapes)
        return state

    def require_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise CodecError unless names and shapes are exactly ``shapes``."""
        missing, unknown = sorted(set(shapes) - set(self)), sorted(set(self) - set(shapes))
        if missing or unknown:
            raise CodecError(
                f"adapter names differ: {len(missing)} missing {missing[:2]}, {len(unknown)} unknown {unknown[:2]}"
            )
        for name, tensor in self._tensors.items():
            if tensor.shape != tuple(shapes[name]):
                raise CodecError(f"adapter tensor {name}: expected {tuple(shapes[name])}, found {tensor.shape}")

    def save_peft(self, folder: Path, base: ModelSpec, lora: LoraSpec) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``: a plain PEFT folder, same bytes each time.

        ``PeftModel.from_pretrained(model, folder)`` loads it without fedsec. ``base.base`` is recorded as the base
        model's name; nothing else of the plan is.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "base_model_name_or_path": base.base,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "peft_type": "LORA",
            "r": lora.rank,
            "target_modules": sorted(lora.targets),
            "task_type": "CAUSAL_LM",
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
        (folder / "adapter_model.safetensors").write_bytes(
            safetensors.numpy.save(dict(self._tensors), metadata={"format": "pt"})
        )

    def _hash(self) -> bytes:
        h = hashlib.sha256(_DIGEST_DOMAIN + len(self).to_bytes(4, "big"))
        for name, tensor in self._tensors.items():
            encoded = name.encode("utf-8")
            h.update(len(encoded).to_bytes(4, "big") + encoded + tensor.ndim.to_bytes(1, "big"))
            for side in tensor.shape:
                h.update(side.to_bytes(8, "big"))
            h.update(tensor.astype("<f4", copy=False).data)
        return h.digest()

    def _known(self, names: Iterable[str]) -> list[str]:
        wanted = sorted(set(names))
        unknown = [name for name in wanted if name not in self._tensors]
        if unknown or not wanted:
            raise LocalMisuseError(f"adapter has no tensor {unknown[:2]} (asked for {len(wanted)} of {len(self)})")
        return wanted


def load_peft(folder: Path) -> AdapterState:
    """Read the weights of a PEFT folder; ConfigError where there is none."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ConfigError(f"expected a PEFT adapter in {folder}, found no adapter_model.safetensors there")
    return AdapterState.from_bytes(file.read_bytes())


def initial_adapter(base: BaseModel, lora: LoraSpec, seed: int) -> AdapterState:
    """What round 0 starts from: A Kaiming-uniform (a = sqrt 5, as PEFT), B zero, a function of the seed alone; for
    ``fed-sb`` `fedsec.training.square.fixed_factors`.

    Every site computes it for itself, so its bits must agree on any platform: uniforms come from PCG64's raw stream
    (whose bits NumPy guarantees), seeded per tensor from SHA-256, and are scaled in exactly rounded float64.
    """
    from fedsec.training.lora import lora_shapes
    from fedsec.training.square import fixed_factors

    shapes = lora_shapes(base, lora)
    if sum(int(np.prod(shape)) for shape in shapes.values()) > _MAX_PARAMETERS:
        raise ConfigError(f"adapter: more than {_MAX_PARAMETERS} parameters; lower lora.rank or name fewer targets")
    _require_rank(shapes, lora)
    if lora.strategy == "fed-sb":
        return fixed_factors(shapes, seed)
    tensors: dict[str, Float32Array] = {}
    for name, shape in shapes.items():
        if ".lora_A." in name:
            bound = 1.0 / float(np.sqrt(np.float64(shape[1])))
            seed_bytes = hashlib.sha256(_SEED_DOMAIN + seed.to_bytes(8, "big") + name.encode("utf-8")).digest()
            tensors[name] = seeded_uniform(seed_bytes, shape, bound)
        else:
            tensors[name] = np.zeros(shape, np.float32)
    return AdapterState(tensors)


def _require_rank(shapes: Mapping[str, tuple[int, ...]], lora: LoraSpec) -> None:
    """Orthonormal rows need at least as many columns."""
    narrow = [name for name, shape in shapes.items() if max(shape) < lora.rank or min(shape) < lora.rank]
    if lora.strategy in {"fedsvd", "fed-sb"} and narrow:
        raise ConfigError(
            f"lora.rank is {lora.rank} and {narrow[0]} is {shapes[narrow[0]]}: strategy {lora.strategy} needs a rank "
            "of at most every width; lower it"
        )


def seeded_uniform(seed: bytes, shape: tuple[int, ...], bound: float) -> Float32Array:
    """Float32 uniforms in [-bound, bound), the same bits on every platform. Not for secrets or privacy noise."""
    words = np.frombuffer(hashlib.sha256(seed).digest(), "<u4").tolist()
    raw = np.random.PCG64(np.random.SeedSequence(words)).random_raw(int(np.prod(shape)))
    unit = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return ((unit * 2.0 - 1.0) * bound).astype(np.float32).reshape(shape)


def _frozen_copy(name: str, tensor: Float32Array) -> Float32Array:
    if tensor.dtype != np.float32:
        raise CodecError(f"adapter tensor {name}: expected float32, found {tensor.dtype}")
    return _frozen(name, np.array(tensor, dtype=np.float32, order="C", copy=True))


def _frozen(name: str, tensor: Float32Array) -> Float32Array:
    """A fresh array, checked and made read-only."""
    if tensor.size == 0 or not np.isfinite(tensor).all():
        raise CodecError(f"adapter tensor {name} {tensor.shape}: empty, or a value is not finite")
    tensor.flags.writeable = False
    return tensor
