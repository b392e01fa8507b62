"""The grid of runs behind README.md: cells, their notes, what they gave, and how it is shown."""
