"""Secure aggregation after Bonawitz et al. (CCS 2017), active-adversary variant: one file per stage and side."""
