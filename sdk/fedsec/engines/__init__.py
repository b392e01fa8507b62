"""Engines deliver exchanges between coordinator and sites, and are trusted with nothing else."""
