"""Base models, LoRA adapters, and the local training loop."""
