"""Per-record gradients of LoRA factors, clipped and summed: what DP-SGD needs of a training step."""
