"""A site and a coordinator from Python, in one process.

python examples/sdk/site_and_coordinator.py FOLDER      FOLDER is made, and holds everything
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from hospitals import make_hospitals

from fedsec.coordinator.exchange import Transport
from fedsec.engines.embedded import EmbeddedTransport
from fedsec.plan.document import load_plan
from fedsec.plan.sitefile import load_site
from fedsec.report.seal import finish_run
from fedsec.site.agent import SiteAgent
from fedsec.study.coordinate import open_coordination
from fedsec.study.coordinated import coordination_folder
from fedsec.study.one_site import open_one_site
from fedsec.study.verify import verify_run
from fedsec_secure.identity.roster import SiteId


def quiet(event: dict[str, object]) -> None:
    """Hears of steps, rounds and losses; `print` shows them all."""


def site(plan_file: Path, site_file: Path, stack: ExitStack) -> SiteAgent:
    """Answers `handle(name, body)`. Key, notes and record stay where the site file says."""
    return open_one_site(load_site(site_file), load_plan(plan_file), None, quiet, stack)


def coordinate(plan_file: Path, coordinator_file: Path, run: Path, transport: Transport) -> None:
    """The whole run; called again after a kill, it goes on."""
    folder = coordination_folder(plan_file, coordinator_file, run)
    coordination = open_coordination(folder, quiet)
    finish_run(folder, lambda: coordination.run(transport))


def main(folder: Path) -> None:
    plan_file, run = make_hospitals(folder), folder / "run"
    names = load_plan(plan_file).roster.sites
    with ExitStack() as stack:
        agents = {SiteId(n): site(plan_file, folder / n / "site.toml", stack) for n in names}
        coordinate(plan_file, folder / "coordinator" / "coordinator.toml", run, EmbeddedTransport(agents))
    for row in verify_run(run):
        print(f"{row.outcome:<11} {row.check}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
