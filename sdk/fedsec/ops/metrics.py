"""What a process counts for Prometheus, in a registry of its own: nothing of a site's notes, counts or losses."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary

from fedsec.ops.fields import OTHER, by_site, classes, name, seconds, whole

_MOST_EXCHANGES = 64
"""Names of exchanges that get a series of their own: a label must not grow with what arrives."""


class Metrics:
    """Counts events. ``sites``: the plan's, the only ones that get a series; ``folders``: watched for free space."""

    def __init__(self, sites: Collection[str], folders: Mapping[str, Path]) -> None:
        self.registry = CollectorRegistry()
        self._sites, self._exchanges = frozenset(sites), set[str]()
        self._lock, self._last = threading.Lock(), time.monotonic()
        r = self.registry
        self.rounds = Counter("fedsec_rounds_finished", "Rounds whose sum was verified", registry=r)
        self.aborted = Counter("fedsec_attempts_aborted", "Attempts at a round that broke off", registry=r)
        self.exchanges = Summary("fedsec_exchange_seconds", "Exchanges and their time", ["exchange"], registry=r)
        self.traffic = Counter("fedsec_exchange_bytes", "Packets' bytes", ["site", "direction"], registry=r)
        self.lost = Counter("fedsec_sites_lost", "Sites that did not answer, or refused", ["reason"], registry=r)
        self.refused = Counter("fedsec_replies_refused", "Replies that this process refused", registry=r)
        self.restarts = Counter("fedsec_engine_restarts", "Starts of the engine after the first", registry=r)
        self.is_ready = Gauge("fedsec_ready", "1 where the process can do its work", registry=r)
        self.dropped = Gauge("fedsec_log_lines_dropped", "Lines of the log that could not be written", registry=r)
        since = Gauge("fedsec_seconds_since_exchange", "Since the last exchange, or the start", registry=r)
        since.set_function(lambda: time.monotonic() - self._last)
        disk = Gauge("fedsec_disk_free_bytes", "Free where this process writes", ["folder"], registry=r)
        for label, path in folders.items():
            disk.labels(label).set_function(partial(_free, path))

    def __call__(self, event: Mapping[str, object]) -> None:
        """Count one event. Never raises."""
        match event.get("event"):
            case "exchange":
                self._exchange(event)
                for reason in classes(event.get("lost")).values():
                    self.lost.labels(reason).inc()
            case "answered":
                self._exchange(event)
            case "refused":
                self.refused.inc(len(by_site(event.get("sites"), str)) or 1)
            case "round":
                self.rounds.inc()
            case "attempt-aborted":
                self.aborted.inc()
            case "engine-restarted":
                self.restarts.inc()

    def _exchange(self, event: Mapping[str, object]) -> None:
        took = seconds(event.get("seconds"))
        self.exchanges.labels(self._exchange_name(event)).observe(0.0 if took is None else max(0.0, took))
        for direction in ("up", "down"):
            for site, size in self._sizes(event, f"bytes_{direction}").items():
                self.traffic.labels(site if site in self._sites else OTHER, direction).inc(max(0, size))
        self._last = time.monotonic()

    def _exchange_name(self, event: Mapping[str, object]) -> str:
        found = name(event.get("exchange")) or OTHER
        with self._lock:
            if found not in self._exchanges and len(self._exchanges) >= _MOST_EXCHANGES:
                return OTHER
            self._exchanges.add(found)
        return found

    def _sizes(self, event: Mapping[str, object], key: str) -> dict[str, int]:
        """At the coordinator by site; at a site one number, its own."""
        value: Any = event.get(key)
        if isinstance(value, Mapping):
            return by_site(value, whole)
        size, site = whole(value), name(event.get("site"))
        return {} if size is None else {site or OTHER: size}


def _free(path: Path) -> float:
    """Bytes; not a number where the folder and all above it are gone."""
    existing = next((p for p in (path, *path.parents) if p.exists()), None)
    try:
        return float("nan") if existing is None else float(shutil.disk_usage(existing).free)
    except OSError:
        return float("nan")
