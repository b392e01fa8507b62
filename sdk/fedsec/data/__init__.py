"""Annotated notes: readers, windows, templates, answers, partitions, and invented hospitals."""
