"""The coordinator: the round driver, its journal, and resume."""
