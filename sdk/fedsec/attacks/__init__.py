"""The known attacks, performed on this build through real bytes, and on a weak aggregator, so that a check can fail."""
