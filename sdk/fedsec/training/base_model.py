"""Loading the base model that a plan names, and checking that its weights are the plan's.

``base`` is one of: the name ``smollm2-135m`` or ``tiny-random``, a GGUF file, a local folder, a Hugging Face id.
Weights come from safetensors or GGUF only, and no code that a model ships is ever run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedsec.plan.specs import LoraSpec, ModelSpec
from fedsec_secure.errors import ConfigError, VerificationError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fedsec.training.dropout import DropoutSeed

TINY_RANDOM = "tiny-random"
SMOLLM2 = "smollm2-135m"


def _dropout_seed() -> DropoutSeed:
    from fedsec.training.dropout import DropoutSeed

    return DropoutSeed()


@dataclass
class LoraSlot:
    """Which LoRA modules are attached to the model at present; kept by `fedsec.training.lora`."""

    spec: LoraSpec | None = None
    model: PeftModel | None = None
    plain_head: bool | None = None
    dropout: DropoutSeed = field(default_factory=_dropout_seed)


@dataclass(frozen=True)
class BaseModel:
    """A loaded base model. One of these serves all sites of a process: adapters are swapped in and out."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights_sha256: str
    """`fedsec.training.digests.weights_digest` of what was loaded, before quantisation."""
    name: str
    """What ``base`` resolved to: a name, a file, a folder or an id."""
    quantisation: str = "none"
    lora: LoraSlot = field(default_factory=LoraSlot, compare=False)

    @property
    def end_token(self) -> int:
        """Id of the end-of-sequence token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_token(self) -> int:
        """Id that fills padding; masked everywhere, so end-of-sequence serves where there is none of its own."""
        pad = self.tokenizer.pad_token_id
        return self.end_token if pad is None else int(pad)


def load_base(spec: ModelSpec) -> BaseModel:
    """Load model and tokenizer in ``spec.dtype``, and quantise where the plan says so.

    Weights that differ from ``spec.weights_sha256``, where it is given, raise VerificationError before anything runs
    on them. Quantisation starts from the checked weights in memory, so the unquantised model must fit once.
    Raises ConfigError where the model, its format or the quantisation is not to be had, before loading where possible.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    from fedsec.training.digests import weights_digest
    from fedsec.training.quantise import quantise, require_quantisation

    require_quantisation(spec)
    transformers_logging.disable_progress_bar()
    name, model, tokenizer = _load_unquantised(spec.base, getattr(torch, spec.dtype))
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"model {name}: its tokenizer has no end-of-sequence token; fedsec needs one")
    digest = weights_digest(model, tokenizer)
    if spec.weights_sha256 is not None and digest != spec.weights_sha256:
        raise VerificationError(
            f"base model {name} ({spec.dtype}): expected weights {spec.weights_sha256}, found {digest}; "
            "this is not the model that the plan names, do not train on it"
        )
    if spec.quantisation != "none":
        model = quantise(model, spec.quantisation, name)
    model.requires_grad_(False)
    model.eval()
    return BaseModel(model, tokenizer, digest, name, spec.quantisation)


def preferred_dtype() -> Literal["float32", "bfloat16"]:
    """What trains faster on this machine: bfloat16 where the processor multiplies it natively, else float32.

    Without AMX or AVX512-BF16 a CPU emulates bfloat16 at a quarter of float32's speed. It is a matter of the plan, not
    of each site: the weights' digest depends on it.
    """
    import torch

    native = torch.cuda.is_available() or any(
        bool(getattr(torch.cpu, probe, bool)()) for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return "bfloat16" if native else "float32"


def _load_unquantised(base: str, dtype: torch.dtype) -> tuple[str, PreTrainedModel, PreTrainedTokenizerBase]:
    from fedsec.training import gguf_cache
    from fedsec.training.tiny_model import tiny_model, tiny_tokenizer

    if base == TINY_RANDOM:
        return TINY_RANDOM, tiny_model().to(dtype), tiny_tokenizer()
    if base == SMOLLM2:
        return SMOLLM2, *_from_pretrained(gguf_cache.converted_folder(gguf_cache.smollm2_file()), dtype)
    path = Path(base).expanduser()
    if path.suffix == ".gguf":
        return base, *_from_pretrained(gguf_cache.converted_folder(path), dtype)
    if path.is_dir():
        if not any(path.glob("*.safetensors")):
            raise ConfigError(
                f"model folder {base}: expected *.safetensors, found none; other formats can carry code and are "
                "refused. Convert it with save_pretrained of a transformers that you trust"
            )
        return base, *_from_pretrained(path, dtype)
    if path.is_absolute() or base.startswith("."):
        raise ConfigError(f"model {base}: no such folder or GGUF file")
    return base, *_from_pretrained(base, dtype)


def _from_pretrained(source: Path | str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"model {source}: could not be loaded ({reason}). Give a local folder with safetensors, a GGUF file, "
            f"a Hugging Face id that is in its cache (HF_HUB_OFFLINE=0 lets it be fetched), or the name {SMOLLM2}"
        ) from error
    return model, tokenizer
