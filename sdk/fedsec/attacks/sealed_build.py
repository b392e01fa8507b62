"""This build where updates are encrypted: its agents, its worker processes, and what it tells an officer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from fedsec.attacks.build import ThisBuild
from fedsec.attacks.lab import Lab
from fedsec.attacks.sealed import Mode, SealedPlay, uploading
from fedsec.encryption.messages import DECRYPT, DONE, LENGTH, read_exactly, write_all
from fedsec.plan.explain import explain
from fedsec.plan.model import Plan
from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.secrets import SecretBytes


class SealedBuild(ThisBuild):
    """What is installed. Closed, the records that attacks start from are gone."""

    scheme: Final = "BFV"

    def __init__(self) -> None:
        self._kept = tempfile.TemporaryDirectory(prefix="fedsec-attack-")
        self._plays: dict[Mode, SealedPlay] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.cleanup()

    def mode(self, asked: Mode) -> Mode:
        """As the plan says."""
        return asked

    @contextmanager
    def uploaded(self, mode: Mode, folder: Path) -> Iterator[SealedPlay]:
        """Agents over copies of records that were made once for each mode: uploads take most of an attack's time."""
        records = Path(self._kept.name) / mode
        if mode not in self._plays:
            with uploading(self, mode, records) as play:
                self._plays[mode] = play
        made, copied = self._plays[mode], folder / "sites"
        shutil.copytree(records, copied)
        with Lab(self, made.lab.world, copied) as lab:
            yield SealedPlay(
                lab,
                statements=dict(made.statements),
                dealings=dict(made.dealings),
                sealed=dict(made.sealed),
                uploads=dict(made.uploads),
            )

    def warning(self, plan: Plan) -> str:
        """The risk that `plan check` prints about protection."""
        risks = [s.text for s in explain(plan) if (s.level, s.topic) == ("risk", "protection")]
        return next((text for text in risks if "together with any one site" in text), "")

    @contextmanager
    def parser(self, key: SecretBytes) -> Iterator[Callable[[bytes], bytes]]:
        """A worker process, as a site starts it, without the site in front of it."""
        with subprocess.Popen(
            [sys.executable, "-I", "-m", "fedsec.encryption.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            source, sink = process.stdout, process.stdin
            assert source is not None
            assert sink is not None

            def reply() -> bytes:
                status, length = read_exactly(source, 1), read_exactly(source, LENGTH.size)
                return status + read_exactly(source, *LENGTH.unpack(length))

            def ask(request: bytes) -> bytes:
                write_all(sink, DECRYPT, LENGTH.pack(len(request)), request)
                return reply()

            write_all(sink, key.reveal())
            if reply() != DONE:
                raise LocalMisuseError("the encryption worker does not start: its self-test failed")
            yield ask
