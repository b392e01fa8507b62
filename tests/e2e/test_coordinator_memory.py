"""The coordinator of an encrypted run in a process of its own: what only sites have is not in its memory, nor on disk.

The same search finds these things where they are: in a site's process, and in those that it starts to open sums.
"""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as seal

from fedsec.encryption.workers import EncryptionWorkers
from fedsec.site import encrypted
from fedsec_secure.codec import head_length
from fedsec_secure.he import cipher, seal_bytes
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.numeric.lanes import Lanes, unpack
from fedsec_secure.secrets import SecretBytes, derive
from tests.e2e.coordinator_process import FarCoordinator
from tests.e2e.federation import Federation, Keys, Steady, make_plan
from tests.e2e.memory import is_mapped, search, search_files, unreadable

SITES = 3
ENOUGH = 1 << 24
"""Bytes of memory that a process with numpy in it has at least."""


def secret_polynomial(stretched: bytes) -> tuple[np.ndarray, np.ndarray]:
    """What SEAL draws from a key: as it keeps it (transformed), and its coefficients. uint64[N] modulo q."""
    n, words = STANDARD.degree, np.frombuffer(stretched, dtype="<u8").tolist()
    context = cipher._context(STANDARD, words)
    file = cipher._Memory()
    seal.KeyGenerator(context).secret_key().save(file.path)
    saved = bytes(seal_bytes.members_of(file.take(), 1 << 20))
    kept = seal_bytes.SealBytes(STANDARD, b"").coefficients(file.take())
    # Transformed back by SEAL itself, as both polynomials of a ciphertext.
    twice = seal_bytes.headed(struct.pack("<Q", 2 * n), kept.tobytes() * 2)
    pair = seal_bytes.headed(saved[:32], struct.pack("<?QQQdQ", True, 2, n, 1, 1.0, 1), twice)
    found = seal.Ciphertext(context)
    found.load(context, file.put(pair))
    seal.Evaluator(context).transform_from_ntt_inplace(found)
    found.save(file.path)
    members = bytes(seal_bytes.members_of(file.take(), 1 << 20))
    file.close()
    return kept, np.frombuffer(members[-16 * n :], dtype="<u8")[:n]


def of_key(key: SecretBytes) -> dict[str, bytes]:
    stretched = derive(key, "fedsec v1 bfv secret key", length=64).reveal()
    kept, coefficients = secret_polynomial(stretched)
    assert set(coefficients.tolist()) == {0, 1, STANDARD.modulus - 1}
    signs = np.where(coefficients > 1, -1, coefficients.astype(np.int8)).astype(np.int8)
    return {
        "key": key.reveal(),
        "key in hex": key.reveal().hex().encode(),
        "stretched key": stretched[:16],
        "stretched key, its end": stretched[-16:],
        "secret polynomial": kept[:8].tobytes(),
        "secret polynomial, its middle": kept[2048:2056].tobytes(),
        "coefficients": coefficients[:64].tobytes(),
        "coefficients as int8": signs[:128].tobytes(),
    }


def of_sum(words: np.ndarray) -> dict[str, bytes]:
    """As it comes out of the decryption, modulo t, and unpacked."""
    lanes = unpack(Lanes.named("2x23"), words)
    below = words & np.uint64(STANDARD.plain_modulus - 1)
    found = {"sum's words": words[:4], "sum's words modulo t": below[:4], "sum's middle": words[len(words) // 2 :][:4]}
    found |= {f"sum's lane {i}": lane[:8] for i, lane in enumerate(lanes)}
    return {name: part.tobytes() for name, part in found.items()}


def of_adapter(name: str, values: np.ndarray) -> dict[str, bytes]:
    return {name: values[:8].tobytes(), f"{name}, its end": values[-8:].tobytes()}


@dataclass
class Watch:
    """What has come up at the sites so far and nowhere else may be, and where it was looked for."""

    needles: dict[str, bytes] = field(default_factory=dict)
    at_workers: set[str] = field(default_factory=set)
    looked: list[str] = field(default_factory=list)

    def know(self, what: str, needles: Mapping[str, bytes]) -> None:
        for needle in needles.values():
            assert len(needle) >= 16
            assert len(set(needle) - {0, 255}) >= 1, "a needle of nothing but zeros would be anywhere"
        self.needles |= {f"{name} ({what})": needle for name, needle in needles.items()}

    def look(self, when: str, coordinator: FarCoordinator, public: Mapping[str, bytes]) -> None:
        seen = search(coordinator.pid, self.needles | public)
        assert seen.searched > ENOUGH
        assert seen.found == public.keys(), f"{when}, in the coordinator's memory"
        stored = search_files(coordinator.folder, self.needles | public)
        assert stored.found == public.keys(), f"{when}, in the coordinator's folder"
        self.looked.append(when)


@pytest.fixture
def watch(monkeypatch) -> Watch:
    """Real workers, which are searched too when they have opened a sum."""
    watch, sums = Watch(), set()

    class Watched(EncryptionWorkers):
        def decrypt(self, total, words, weights=None):
            found = super().decrypt(total, words, weights)
            if found.tobytes() not in sums:
                sums.add(found.tobytes())
                watch.know(f"sum {len(sums)}", of_sum(found))
                watch.at_workers |= search(self._workers[0]._process.pid, watch.needles).found
            return found

    monkeypatch.setattr(encrypted, "EncryptionWorkers", Watched)
    return watch


HOLD_KEY = """
import sys
from pathlib import Path
from fedsec.site.store import SiteStore

key = SiteStore(Path(sys.argv[1])).keys.key(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


def at_a_site(folder: Path, run: str, needles: Mapping[str, bytes]) -> frozenset[str]:
    """What is found in a process that has a site's record open, and the key in its hands."""
    command = [sys.executable, "-c", HOLD_KEY, str(folder), run]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        found = search(process.pid, needles).found
        process.stdin.close()
    return found


def trained(federation: Federation, run: str) -> np.ndarray:
    """What rounds have changed of the newest adapter at a site."""
    agent, store = federation.agents["site-b"], federation.stores["site-b"]
    held, start = agent.held(run, store.newest_round(run)), federation.initial()
    name = next(n for n in held if n.endswith("lora_B.weight"))
    assert not np.isclose(held[name], start[name]).any()
    return held[name].reshape(-1)


def run_and_look(folder: Path, federation: Federation, far: FarCoordinator, watch: Watch, run: str) -> None:
    """Drive the run; look when the key is taken, when a sum is out, when it led somewhere, and at the end."""
    public, asked = {"run id": run.encode()}, Counter[str]()
    for site, exchange, body in far.requests():
        asked[exchange] += 1
        store, when = federation.stores[site], f"{exchange} {asked[exchange]}"
        if when == "train 1":
            watch.know("held", of_key(store.keys.key(run)))
            reply = store.keys.reply(run)
            public["fingerprint"] = reply[head_length(reply) :]
            shutil.copytree(store.folder, folder / "copy")
            assert "key (held)" in at_a_site(folder / "copy", run, watch.needles)
            assert "key (held)" in search_files(folder / "copy", watch.needles).found
        elif when == f"train {SITES + 1}":
            watch.know("after round 1", of_adapter("adapter", trained(federation, run)))
        # Of verdicts the second: one site has opened by then what was sent to all.
        if (exchange, asked[exchange] % SITES) in (("train", 1), ("verdict", 2)):
            watch.look(when, far, public)
        far.answer(federation.agents[site].handle, exchange, body)
        if exchange == "train":
            update = store.update(run, store.newest_round(run)).values
            watch.know(f"of {site}, {when}", of_adapter("update", update))
    watch.know("at the end", of_adapter("adapter", trained(federation, run)))
    watch.look("end", far, public)


@pytest.mark.parametrize(
    ("mode", "looked"),
    [
        pytest.param("he-mask", ["train 1", "verdict 2", "train 4", "verdict 5", "end"], id="he-mask"),
        pytest.param("he", ["train 1", "verdict 2", "end"], id="he", marks=pytest.mark.slow),
    ],
)
def test_nothing_of_what_only_sites_have_is_at_the_coordinator(tmp_path, watch, mode, looked):
    why = unreadable(os.getpid())
    if why is not None:
        pytest.skip(why)
    keys, run = Keys.generate(SITES), f"run-{secrets.token_hex(12)}"
    plan = make_plan(keys, mode=mode, rounds=len(looked) // 2)
    with Federation(tmp_path / "sites", keys, plan, work=Steady) as federation:
        far = FarCoordinator(tmp_path / "coordinator", plan, keys.coordinator, run)
        try:
            run_and_look(tmp_path, federation, far, watch, run)
            assert not is_mapped(far.pid, "tenseal"), "no parser of SEAL's in the coordinator"
            assert not is_mapped(far.pid, "libtorch"), "nor anything to train with"
            assert far.result == federation.agents["site-c"].final_adapter(run).digest().hex()
        finally:
            far.close()
    assert watch.looked == looked
    assert {"secret polynomial (held)", "sum's words (sum 1)"} <= watch.at_workers
