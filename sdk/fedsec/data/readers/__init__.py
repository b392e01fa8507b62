"""Readers of corpus formats, one file a format. Each gives documents and a report of what it had to leave out."""

from fedsec.data.readers.common import Reading, ReadReport

__all__ = ["ReadReport", "Reading"]
