"""A working set taken apart: each site and the coordinator in a folder of its own, as on machines apart."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

from fedsec.engines.embedded import EmbeddedTransport
from fedsec.plan.coordinatorfile import COORDINATOR_FILE, CoordinatorFile
from fedsec.plan.document import load_plan
from fedsec.plan.sitefile import Site, load_site
from fedsec.plan.toml import write_toml
from fedsec.study.one_site import open_one_site
from fedsec_secure.identity.roster import SiteId


class Machines:
    """``folder``/NAME/site and ``folder``/NAME/public for each site, and ``folder``/office with the coordinator's."""

    def __init__(self, working_set: Path, folder: Path) -> None:
        office = working_set / "coordinator"
        self.folder, self.office = folder, folder / "office"
        (self.office / "approvals").mkdir(parents=True)
        for path in (office / "coordinator.key", office / "plan.json"):
            shutil.copy(path, self.office)
        self.coordinator = self.office / COORDINATOR_FILE
        self.coordinator.write_text(write_toml(CoordinatorFile(), "The coordinator"))
        self._public(working_set, self.office / "public")
        self.plan_path = self.office / "plan.json"
        self.plan = load_plan(self.plan_path)
        for name in self.plan.roster.sites:
            there = folder / name / "site"
            shutil.copytree(working_set / name, there, ignore=shutil.ignore_patterns("state", "officer.key"))
            self._public(working_set, folder / name / "public")
            shutil.copy(there / "approval.json", self.office / "approvals" / f"{name}.json")

    @staticmethod
    def _public(working_set: Path, there: Path) -> None:
        if (working_set / "public").is_dir():
            shutil.copytree(working_set / "public", there)

    def site(self, name: str) -> Site:
        return load_site(self.folder / name / "site" / "site.toml")

    def transport(self, stack: ExitStack) -> EmbeddedTransport:
        """Every site opened from its own folder; ``stack`` closes them."""
        names = self.plan.roster.sites
        agents = {SiteId(n): open_one_site(self.site(n), self.plan, None, lambda _: None, stack) for n in names}
        return EmbeddedTransport(agents)
