"""What goes over a link: a site's requests and the coordinator's answers, one encoding each, strictly decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from fedsec_secure.codec import DIGEST_BYTES, Buffer, Reader, Writer
from fedsec_secure.errors import CodecError

T = TypeVar("T")

MAX_PIECE: Final = 1 << 23
"""Bytes of a request or reply that one frame carries at most."""
_MOST_AT_ONCE: Final = 3 * MAX_PIECE
"""Bytes of pieces from all sites together: what the coordinator's machine has in memory does not grow with them."""
MAX_REASON: Final = 4000
"""Bytes of words for people."""


def largest_piece(sites: int) -> int:
    """Bytes of a piece, where so many sites may send one at the same time; half a MiB at the least."""
    return min(MAX_PIECE, max(_MOST_AT_ONCE // sites, 1 << 19))


@dataclass(frozen=True)
class Next:
    """Is there anything for me? The answer may take ``wait_ms``. ``busy``: the order that I work on, or 0."""

    wait_ms: int
    busy: int


@dataclass(frozen=True)
class Pull:
    """Give me ``length`` bytes of an order's request, from ``offset``."""

    order: int
    offset: int
    length: int


@dataclass(frozen=True)
class Announce:
    """My reply to an order has this size and SHA-256. ``upload``: it is to be kept as a file."""

    order: int
    upload: bool
    size: int
    sha256: bytes


@dataclass(frozen=True)
class Push:
    """Bytes of my reply, from ``offset``."""

    order: int
    offset: int
    data: memoryview


@dataclass(frozen=True)
class Refuse:
    """I do not answer this order, for a reason that people can read."""

    order: int
    reason: str


@dataclass(frozen=True)
class Heard:
    """I know that the run is over, and ask nothing more."""


Request = Next | Pull | Announce | Push | Refuse | Heard


@dataclass(frozen=True)
class Order:
    """An exchange: its name, and size and SHA-256 of the request, which is to be pulled."""

    order: int
    name: str
    size: int
    sha256: bytes


@dataclass(frozen=True)
class Nothing:
    """Not yet: ask again."""


@dataclass(frozen=True)
class Rest:
    """This connection ends; the engine will open another."""


@dataclass(frozen=True)
class Over:
    """The run is over, in the coordinator's words."""

    words: str


@dataclass(frozen=True)
class Piece:
    """Bytes of a request."""

    data: memoryview


@dataclass(frozen=True)
class Have:
    """So many bytes of the reply are here."""

    size: int


@dataclass(frozen=True)
class Gone:
    """The order is not waited for any more."""


Answer = Order | Nothing | Rest | Over | Piece | Have | Gone


def encode_request(m: Request) -> bytes:
    """One byte that says which, and its fields."""
    out = Writer()
    if isinstance(m, Next):
        return out.uint(1, 1).uint(m.wait_ms, 4).uint(m.busy, 8).done()
    if isinstance(m, Pull):
        return out.uint(2, 1).uint(m.order, 8).uint(m.offset, 8).uint(m.length, 4).done()
    if isinstance(m, Announce):
        out.uint(3, 1).uint(m.order, 8).uint(m.upload, 1).uint(m.size, 8)
        return out.fixed(m.sha256, DIGEST_BYTES).done()
    if isinstance(m, Push):
        return out.uint(4, 1).uint(m.order, 8).uint(m.offset, 8).blob(m.data).done()
    if isinstance(m, Refuse):
        return out.uint(5, 1).uint(m.order, 8).text(m.reason).done()
    return out.uint(6, 1).done()


def decode_request(data: Buffer) -> Request:
    """Strict inverse; CodecError."""
    return _decode(data, "request of the link", _REQUESTS)


_REQUESTS: Final[tuple[Callable[[Reader], Request], ...]] = (
    lambda r: Next(r.uint(4), r.uint(8)),
    lambda r: Pull(r.uint(8), r.uint(8), r.uint(4, most=MAX_PIECE)),
    lambda r: Announce(r.uint(8), bool(r.uint(1, most=1)), r.uint(8), r.fixed(DIGEST_BYTES)),
    lambda r: Push(r.uint(8), r.uint(8), r.view(most=MAX_PIECE)),
    lambda r: Refuse(r.uint(8), r.text(most=MAX_REASON)),
    lambda r: Heard(),
)


def encode_answer(m: Answer) -> bytes:
    """One byte that says which, and its fields."""
    out = Writer()
    if isinstance(m, Order):
        return out.uint(1, 1).uint(m.order, 8).text(m.name).uint(m.size, 8).fixed(m.sha256, DIGEST_BYTES).done()
    if isinstance(m, Over):
        return out.uint(4, 1).text(m.words).done()
    if isinstance(m, Piece):
        return out.uint(5, 1).blob(m.data).done()
    if isinstance(m, Have):
        return out.uint(6, 1).uint(m.size, 8).done()
    return out.uint({Nothing: 2, Rest: 3, Gone: 7}[type(m)], 1).done()


def decode_answer(data: Buffer) -> Answer:
    """Strict inverse; CodecError."""
    return _decode(data, "answer of the link", _ANSWERS)


_ANSWERS: Final[tuple[Callable[[Reader], Answer], ...]] = (
    lambda r: Order(r.uint(8), r.text(most=64), r.uint(8), r.fixed(DIGEST_BYTES)),
    lambda r: Nothing(),
    lambda r: Rest(),
    lambda r: Over(r.text(most=MAX_REASON)),
    lambda r: Piece(r.view(most=MAX_PIECE)),
    lambda r: Have(r.uint(8)),
    lambda r: Gone(),
)


def _decode(data: Buffer, what: str, kinds: Sequence[Callable[[Reader], T]]) -> T:
    r = Reader(data, what)
    kind = r.uint(1, most=len(kinds))
    if kind == 0:
        raise CodecError(f"{what}: a kind of 1 to {len(kinds)} was expected; found 0")
    found = kinds[kind - 1](r)
    r.done()
    return found
