"""The site: its agent, its write-ahead record, and its work on its own notes."""
