"""The report of a run for a privacy officer: one HTML file without network, signed with the run."""
