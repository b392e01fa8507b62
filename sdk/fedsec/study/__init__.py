"""A study in one process: run folder, sites, rounds, baselines, scores."""
