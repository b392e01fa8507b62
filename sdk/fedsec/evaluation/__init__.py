"""Greedy answers and their scores: precision, recall and F1 of entities and relations."""
