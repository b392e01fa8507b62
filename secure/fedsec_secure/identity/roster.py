"""Who is in a run: pinned public keys. No message can add, drop or swap one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NewType

from fedsec_secure.codec import Verify, Writer, sha256
from fedsec_secure.errors import ConfigError, PeerViolationError
from fedsec_secure.identity.keys import PublicKey

SiteId = NewType("SiteId", str)
COORDINATOR = "coordinator"


@dataclass(frozen=True)
class Roster:
    """The coordinator's and every site's Ed25519 key. All keys differ; ``coordinator`` is no site's name."""

    coordinator: PublicKey
    sites: Mapping[SiteId, PublicKey]

    def __post_init__(self) -> None:
        if not 1 <= len(self.sites) <= 1000 or COORDINATOR in self.sites:
            raise ConfigError("a roster has 1 to 1000 sites, none of them called 'coordinator'")
        if len({self.coordinator.raw, *(k.raw for k in self.sites.values())}) != len(self.sites) + 1:
            raise ConfigError("two parties of the roster have the same public key: every party needs its own")
        object.__setattr__(self, "sites", MappingProxyType(dict(sorted(self.sites.items()))))

    @property
    def ids(self) -> tuple[SiteId, ...]:
        """Sorted site ids."""
        return tuple(self.sites)

    def index(self, site: SiteId) -> int:
        """The site's 1-based place among the sorted ids: its x in Shamir's scheme."""
        return self.ids.index(site) + 1

    def digest(self) -> bytes:
        """SHA-256 over every id and key, 32 bytes."""
        out = Writer().text("fedsec roster v1").fixed(self.coordinator.raw, 32).uint(len(self.sites), 2)
        for site, key in self.sites.items():
            out.text(site).fixed(key.raw, 32)
        return sha256(out.done())

    def verifier(self, party: str) -> Verify:
        """The signature check of a site or of the coordinator; unknown parties are refused."""
        key = self.coordinator if party == COORDINATOR else self.sites.get(SiteId(party))
        # Check 6 (Sybil): no party but those that the officers approved.
        if key is None:
            raise PeerViolationError(f"expected a party of the pinned roster, found {party!r}")
        return key.verify
