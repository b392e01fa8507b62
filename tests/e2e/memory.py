"""What another process has in its memory: all of it that can be read and is no unchanged page of a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_CHUNK = 1 << 24
_REGION = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) ", re.MULTILINE)
_CHANGED = re.compile(r"^Anonymous: +[1-9]", re.MULTILINE)


@dataclass(frozen=True)
class Seen:
    """Names of the needles that were found, and how many bytes were searched."""

    found: frozenset[str]
    searched: int


def unreadable(pid: int) -> str | None:
    """Why the memory of a process cannot be read here, if it cannot."""
    try:
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(next(_regions(pid))[0])
            memory.read(1)
    except (OSError, StopIteration) as e:
        return f"/proc/{pid}/mem is not readable: {e!r}"
    return None


class Needles:
    """All of them are looked for at once: by two bytes of each, and where those are, by the whole."""

    def __init__(self, needles: Mapping[str, bytes]) -> None:
        self.longest = max(map(len, needles.values()))
        self._marked = np.zeros(1 << 16, dtype=bool)
        self._by_mark: dict[int, list[tuple[str, bytes, int]]] = {}
        for name, needle in needles.items():
            at = next(i for i in range(len(needle) - 1) if not {0, 255} & set(needle[i : i + 2]))
            mark = int.from_bytes(needle[at : at + 2], "little")
            self._marked[mark] = True
            self._by_mark.setdefault(mark, []).append((name, needle, at))

    def in_(self, data: bytes) -> set[str]:
        """Names of those that ``data`` has, at any alignment."""
        found = set()
        for shift in (0, 1):
            pairs = np.frombuffer(data, dtype="<u2", offset=shift, count=(len(data) - shift) // 2)
            for index in np.flatnonzero(self._marked[pairs]).tolist():
                for name, needle, at in self._by_mark[int(pairs[index])]:
                    start = 2 * index + shift - at
                    if start >= 0 and data.startswith(needle, start):
                        found.add(name)
        return found


def search(pid: int, needles: Mapping[str, bytes]) -> Seen:
    """Which ``needles`` stand anywhere in the memory of ``pid``."""
    found, searched, wanted = set[str](), 0, Needles(needles)
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in _regions(pid):
            rest = b""
            for at in range(start, end, _CHUNK):
                memory.seek(at)
                data = memory.read(min(_CHUNK, end - at))
                searched += len(data)
                found |= wanted.in_(rest + data)
                rest = data[1 - wanted.longest :]
    return Seen(frozenset(found), searched)


def search_files(folder: Path, needles: Mapping[str, bytes]) -> Seen:
    """The same of all files under a folder."""
    data = b"\0".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())
    return Seen(frozenset(Needles(needles).in_(data)), len(data))


def is_mapped(pid: int, part: str) -> bool:
    """Whether a file with ``part`` in its path is mapped: a library, for instance."""
    return any(part in line for line in Path(f"/proc/{pid}/maps").read_text().splitlines())


def _regions(pid: int) -> Iterator[tuple[int, int]]:
    """Those that are readable, but for the kernel's own and for files none of whose pages the process has changed."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    starts = [*_REGION.finditer(text)]
    for found, following in zip(starts, [*starts[1:], None], strict=True):
        said = text[found.start() : following.start() if following else len(text)]
        start, end, mode = found.groups()
        if mode.startswith("r") and "[v" not in said.splitlines()[0] and ("w" in mode or _CHANGED.search(said)):
            yield int(start, 16), int(end, 16)
