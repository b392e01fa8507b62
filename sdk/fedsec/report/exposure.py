"""What the adapter gives away of single records: how exposed each site's canaries are, as the sites attest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedsec.plan.attestation import Attestation, withheld
from fedsec.plan.canaries import CHANCE, highest, no_site_is_above
from fedsec.plan.model import Plan


@dataclass(frozen=True)
class ExposureRow:
    """One site's canaries."""

    site: str
    bits: tuple[float, ...]
    """One by one."""
    mean: float
    bound: float | None
    """Of the site's policy."""
    withheld: str | None
    """Why the site does not let the adapter be released."""


@dataclass(frozen=True)
class Exposures:
    """Of all sites that attest. ``sentences`` say what was found; both are empty where no canaries were planted."""

    rows: tuple[ExposureRow, ...]
    sentences: tuple[str, ...]
    highest: float
    """All that can be seen with the plan's candidates, in bits."""

    @property
    def blocked(self) -> tuple[str, ...]:
        """Why the adapter is not released; empty where it is."""
        return tuple(row.withheld for row in self.rows if row.withheld is not None)


def exposures(plan: Plan, said: Mapping[str, Attestation]) -> Exposures:
    """From the attestations as they are in the run folder."""
    rows = tuple(
        ExposureRow(site, a.canaries.bits, a.canaries.mean, a.floors.max_exposure, withheld(a))
        for site, a in sorted(said.items())
        if a.canaries is not None
    )
    return Exposures(rows, _sentences(plan, rows) if rows else (), highest(plan.canaries.candidates))


def _sentences(plan: Plan, rows: tuple[ExposureRow, ...]) -> tuple[str, ...]:
    count = plan.canaries.per_site
    chance = no_site_is_above(count, len(rows))
    most = max(rows, key=lambda row: row.mean)
    above = [row.site for row in rows if row.mean > chance]
    found = (
        f"More than chance explains at {', '.join(above)}: the adapter remembers single records."
        if above
        else "No site's is more than chance explains."
    )
    knows = highest(plan.canaries.candidates)
    quiet = sorted(plan.roster.sites.keys() - {row.site for row in rows})
    silent = (f"Nothing is known of the canaries of {', '.join(quiet)}: nothing was attested there.",) if quiet else ()
    return (
        f"Each site put {count} made-up records of its own among its notes, and trained on them as on these. Exposure "
        "says how much likelier the adapter finds such a record than others that nobody trained on: "
        f"{CHANCE:.1f} bits in the mean if it remembers nothing of them (in 99 of 100 such runs below {chance:.1f} at "
        f"all sites), {knows:.0f} if it knows them by heart.",
        f"The highest mean is {most.mean:.1f} bits, at {most.site}. {found}",
        *silent,
    )
