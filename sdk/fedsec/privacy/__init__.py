"""What mechanisms of differential privacy cost: the accountants. Mechanisms themselves are elsewhere."""
