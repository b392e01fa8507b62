"""What a driver and an engine say to each other: one exchange out, one outcome back, and nothing more.

The driver is a generator that yields an :class:`Exchange` and is sent an :class:`Outcome`; a :class:`Transport` turns
one into the other. An engine needs to know nothing else, and is trusted with delivery only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from fedsec_secure.errors import (
    AbortError,
    CodecError,
    ConfigError,
    LocalMisuseError,
    PeerViolationError,
    PrivacyBudgetExceededError,
    ReleaseBlockedError,
    VerificationError,
)
from fedsec_secure.identity.roster import SiteId

Reply = bytes | Path
"""Small replies are bytes; uploads are files in the run's spool."""
_REFUSALS: Final = frozenset(
    kind.__name__
    for kind in (
        AbortError,
        CodecError,
        ConfigError,
        LocalMisuseError,
        PeerViolationError,
        PrivacyBudgetExceededError,
        ReleaseBlockedError,
        VerificationError,
    )
)
"""What is not answered better when it is asked at once. A full disk, or an engine that failed, may be over by then."""
UPLOADS: Final = frozenset({"mask", "plain", "encrypt", "step"})
"""The exchanges whose replies are files."""


@dataclass(frozen=True)
class Exchange:
    """One request to each of some sites.

    Attributes:
        name: as in docs/protocol.md.
        round: from 0. attempt: from 0 within the round.
        requests: what goes to each site; bytes are shared where the request is the same for all.
        deadline: seconds after which missing replies count as lost.
        settle: where nothing can be tried instead: AbortError for replies that the run cannot go on with. Whoever is
            silent is asked the same again; a site has one answer to it, for ever. It has no effects.
    """

    name: str
    round: int
    attempt: int
    requests: Mapping[SiteId, bytes]
    deadline: float
    settle: Settle | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Outcome:
    """Every asked site is in exactly one of the two: it replied, or it is lost with a reason for people to read."""

    replies: Mapping[SiteId, Reply]
    lost: Mapping[SiteId, str]

    def small(self) -> dict[SiteId, bytes]:
        """The replies that are bytes."""
        return {s: r for s, r in self.replies.items() if isinstance(r, bytes)}

    def silent(self) -> frozenset[SiteId]:
        """Who is lost without having said no: the reason of a refusal begins with the class of the site's error."""
        return frozenset(site for site, why in self.lost.items() if why.partition(":")[0] not in _REFUSALS)

    def uploads(self) -> dict[SiteId, Path]:
        """The replies that are spooled files."""
        return {s: r for s, r in self.replies.items() if isinstance(r, Path)}


Settle = Callable[[Outcome], object]


class Transport(Protocol):
    """Delivers exchanges. Implemented by the engines."""

    def sites(self) -> tuple[SiteId, ...]:
        """The sites that can be reached now."""
        ...

    def exchange(self, exchange: Exchange, spool: Path) -> Outcome:
        """Deliver and wait. Uploads are written into ``spool``, whole and durable."""
        ...
