"""The experiments behind README.md: notes, systems, what is measured of them, and how it is shown."""
