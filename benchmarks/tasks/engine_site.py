"""One site of `benchmarks.engine`, in a process of its own: answers `mask` with a file of the size that is asked for.

``python -m benchmarks.tasks.engine_site FOLDER NAME BYTES,BYTES``
"""

from __future__ import annotations

import sys
from pathlib import Path

from fedsec.engines.link.station import SiteTerms, Station
from fedsec.engines.nvflare.site import NvflareSite
from fedsec.ops.kit import load_kit
from fedsec.plan.document import load_plan
from fedsec.spool import write_durably
from fedsec.wire import core_roster
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    plan, key = load_plan(folder / "plan.json"), SigningKey.load(folder / "keys" / name)
    uploads = {size: folder / f"{name}-{size}.upload" for size in map(int, sys.argv[3].split(","))}
    chunk = bytes(1 << 20)
    for size, path in uploads.items():
        write_durably(path, (chunk[: min(len(chunk), size - at)] for at in range(0, size, len(chunk))))

    def handle(exchange: str, body: bytes) -> bytes | Path:
        return uploads[int.from_bytes(body, "big")] if exchange == "mask" else body[:200]

    terms = SiteTerms(SiteId(name), plan.digest(), core_roster(plan), key.sign, "benchmark")
    station = Station(terms, handle, lambda event: None)
    engine = NvflareSite(load_kit(folder / "kits" / name, "site"), name, folder / f"{name}-engine")
    try:
        engine.serve(station)
    finally:
        station.close()
        engine.close()


if __name__ == "__main__":
    main()
