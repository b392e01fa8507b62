"""Base models, LoRA adapters, and the local training loop.

Importing this keeps the libraries below local. transformers and peft ask a model hub by default, also about models that
lie here; bitsandbytes takes native code from one where the package `kernels` is installed and the processor has
bfloat16 units. ``HF_HUB_OFFLINE=0`` in the environment lets base models be fetched again; code is never.
"""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]  # as the import system has it: not to be found
