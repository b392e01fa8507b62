"""The record: a Merkle log that sites cosign, so that nobody can show two histories of a run without leaving proof."""
