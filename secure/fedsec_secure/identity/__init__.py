"""Who signs: keys, envelopes that have one form only, and the roster."""
