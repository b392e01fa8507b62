"""Exact integers modulo 2^64 — fixed point, lanes, keystreams and Shamir shares."""
