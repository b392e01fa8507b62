"""Federated LoRA fine-tuning of clinical language models, for sites that show nobody their notes or their updates."""
