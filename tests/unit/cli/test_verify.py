"""`fedsec verify` on a real run: whatever is changed afterwards, by whomever, is found and named.

Two kinds of attackers: someone who has the folder and no key, and the coordinator, who signs the list of files and the
certificate anew after every change.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import shutil
from pathlib import Path

import pytest

from fedsec.plan.attestation import ATTESTATION_TYPE, Attestation, sign_attestation
from fedsec.plan.coordinatorfile import coordinator_of
from fedsec.plan.document import MAX_DOCUMENT_BYTES, parse_canonical
from fedsec.plan.sitefile import load_sites
from fedsec.study import evidence
from fedsec.study.certificate import CERTIFICATE, open_certificate, sign_certificate
from fedsec.study.folder import RunFolder
from fedsec.study.logbook import MAX_LOG_BYTES, Logbook
from fedsec.study.manifest import MANIFEST, write_manifest
from fedsec.study.verify import MAX_REPORT_BYTES, REPORT, verify_run
from fedsec.wire import log_of
from fedsec_secure.identity.envelope import MAX_ENVELOPE_BYTES, open_envelope
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.record.checkpoint import Checkpoint, add_cosignature, cosign, sign_checkpoint
from fedsec_secure.record.entries import AggregateEntry, AttestationEntry, SurvivorsEntry
from fedsec_secure.record.note import MAX_NOTE_BYTES
from fedsec_secure.record.tree import MerkleTree
from tests.unit.cli.smoke import RUN_ID, finished_run

SITE = "clifton"


@pytest.fixture
def run(tmp_path) -> Path:
    shutil.copytree(finished_run(), tmp_path / "run")
    return tmp_path / "run"


def first_failure(run: Path) -> tuple[int, str]:
    rows = verify_run(run)
    return next(((r.number, r.reason) for r in rows if r.outcome == "failed"), (0, ""))


class Coordinator:
    """What a coordinator can do to a run folder afterwards: change anything, and sign what it signs. For the tests
    that need sites who help, it has their keys as well.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.sites = run, finished_run().with_name("run-sites")
        self.plan = RunFolder.open(run).plan
        self.key = SigningKey.load(coordinator_of(self.sites).key_path)
        self.site_keys = {name: SigningKey.load(site.key_path) for name, site in load_sites(self.sites).items()}

    def seal(self) -> tuple[int, str]:
        """Sign the list of files again; what `fedsec verify` then says."""
        write_manifest(self.run, RUN_ID, self.plan, self.key)
        return first_failure(self.run)

    def write_log(self, entries, at: int | None = None, helpers=None) -> None:
        """Another log, cosigned by the ``helpers`` (all sites if left out)."""
        tree = MerkleTree(e.leaf_hash() for e in entries)
        checkpoint = Checkpoint(log_of(self.plan, RUN_ID).origin, tree.head())
        note = sign_checkpoint(checkpoint, self.key)
        for name in self.site_keys if helpers is None else helpers:
            key = self.site_keys[name]
            moment = at or int(datetime.datetime.now(datetime.UTC).timestamp())
            note = add_cosignature(note, cosign(checkpoint, name, key, moment), name, key.public)
        (self.run / "log" / "checkpoint").write_bytes(note)
        lines = (e.leaf_data().split(b"\0", 1)[1] + b"\n" for e in entries)
        (self.run / "log" / "entries.jsonl").write_bytes(b"".join(lines))

    def entries(self):
        return list(Logbook.read(self.run).entries)

    def attestation(self, site: str = SITE) -> Attestation:
        data = (self.run / "attestations" / f"{site}.json").read_bytes()
        payload = open_envelope(data, ATTESTATION_TYPE, {self.site_keys[site].public})
        return parse_canonical(payload, Attestation, "an attestation")

    def with_attestation(self, said: Attestation) -> None:
        """With the site's own help: another attestation, in the log as well."""
        signed = sign_attestation(said, self.site_keys[said.site])
        (self.run / "attestations" / f"{said.site}.json").write_bytes(signed)
        import hashlib

        digest = hashlib.sha256(signed).hexdigest()
        change = {"attestation_sha256": digest, "exclusions_hmac_sha256": said.exclusions_hmac_sha256}
        self.write_log(
            [
                e.model_copy(update=change) if isinstance(e, AttestationEntry) and e.site == said.site else e
                for e in self.entries()
            ]
        )


# ---- a good run


def test_a_good_run_holds(fedsec, run):
    result = fedsec("verify", run)
    assert result.code == 0
    assert "failed" not in result.out
    assert max(len(line) for line in result.out.splitlines()) <= 100
    answer = fedsec("verify", run, "--json").json
    assert answer["held"] is True
    assert [c["outcome"] for c in answer["checks"] if c["number"] != 2] == ["held"] * 11


def test_it_holds_wherever_it_lies_and_without_the_sites(fedsec, run, tmp_path):
    shutil.move(run, tmp_path / "elsewhere" / "one")
    assert fedsec("verify", tmp_path / "elsewhere" / "one").code == 0


@pytest.fixture
def pins(run, tmp_path):
    roster = RunFolder.open(run).plan.roster
    lines = [f'coordinator = "{roster.coordinator}"']
    for name, site in roster.sites.items():
        lines += [f"[sites.{name}]", f'key = "{site.key}"', f'officer = "{site.officer}"']
    path = tmp_path / "pins.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_pinned_keys_are_held_against_the_plan(fedsec, run, pins):
    answer = fedsec("verify", run, "--keys", pins, "--json").json
    assert [c["outcome"] for c in answer["checks"]] == ["held"] * 12
    roster = RunFolder.open(run).plan.roster
    stranger = SigningKey.generate().public.hex
    for known in (roster.coordinator, roster.sites[SITE].key, roster.sites[SITE].officer):
        text = pins.read_text()
        pins.write_text(text.replace(known, stranger))
        result = fedsec("verify", run, "--keys", pins, "--json")
        assert result.code == 1
        assert [c["number"] for c in result.json["checks"] if c["outcome"] == "failed"] == [2]
        pins.write_text(text)
    pins.write_text(text.replace(f'officer = "{known}"', f'officer = "{known}"\nco_officers = ["{stranger}"]'))
    assert fedsec("verify", run, "--keys", pins, "--json").json["checks"][1]["outcome"] == "failed"
    pins.write_text(text.replace("[sites.clifton]", "[sites.kingsway]"))
    assert "the plan's sites are" in fedsec("verify", run, "--keys", pins, "--json").json["checks"][1]["reason"]
    pins.write_text(text + 'comment = "x"\n')
    assert fedsec("verify", run, "--keys", pins).code == 2


# ---- whoever has the folder


def files_of(run: Path) -> list[str]:
    return sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 + at % 255
    path.write_bytes(data)


def named(run: Path, file: str) -> bool:
    """The failure is in the checks that look at bytes, and it says which file."""
    number, reason = first_failure(run)
    if file == "plan.json":
        return number in (1, 3, 4)
    return number in (3, 4) and (file in reason or file == MANIFEST)


SIGNED = ("approvals", "attestations", "log/checkpoint", CERTIFICATE, MANIFEST)


def flips(run: Path, every: int) -> int:
    """One byte of each file at a time; how many were tried. The signed files at every ``every``-th place."""
    tried = 0
    for file in files_of(run):
        path, good = run / file, (run / file).read_bytes()
        step = every if file.startswith(SIGNED) else 65_536
        for at in range(0, len(good), step):
            flip(path, at)
            assert named(run, file), f"byte {at} of {file} was changed: {first_failure(run)}"
            path.write_bytes(good)
            tried += 1
    assert first_failure(run) == (0, "")
    return tried


def test_a_changed_byte_in_any_file_is_found(run):
    assert flips(run, every=499) > len(files_of(run))


@pytest.mark.slow
def test_every_changed_byte_of_what_is_signed_is_found(run):
    assert flips(run, every=1) > 20_000


def test_files_that_are_gone_added_cut_or_swapped_are_found(run):
    files = files_of(run)
    assert {"plan.json", "journal.sqlite", REPORT, "metrics.jsonl", "adapter/adapter_model.safetensors"} <= set(files)
    for file in files:
        path, good = run / file, (run / file).read_bytes()
        path.write_bytes(good[:-1])
        assert named(run, file), file
        path.unlink()
        assert first_failure(run)[0] in ((1,) if file == "plan.json" else (3, 4)), file
        path.write_bytes(good)
    (run / "approvals" / "kingsway.json").write_bytes((run / "approvals" / f"{SITE}.json").read_bytes())
    assert first_failure(run) == (4, "approvals/kingsway.json was added: it was not there when the run was signed")
    (run / "approvals" / "kingsway.json").unlink()
    one, two = (run / "approvals" / f"{name}.json" for name in (SITE, "harbour"))
    one.write_bytes(two.read_bytes())
    assert first_failure(run)[0] == 4


def test_every_dropped_line_is_found(run):
    for file in ("log/entries.jsonl", "log/checkpoint", "metrics.jsonl"):
        path, good = run / file, (run / file).read_bytes()
        lines = good.splitlines(keepends=True)
        for number in range(len(lines)):
            path.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
            assert named(run, file), (file, number)
        path.write_bytes(good)


def test_a_link_is_no_part_of_a_run(run, tmp_path):
    path = run / "metrics.jsonl"
    shutil.move(path, tmp_path / "metrics.jsonl")
    path.symlink_to(tmp_path / "metrics.jsonl")
    assert first_failure(run) == (4, "metrics.jsonl is neither a file nor a folder: a run has no links")


LIMITS = {
    "plan.json": (1, MAX_DOCUMENT_BYTES),
    MANIFEST: (3, MAX_ENVELOPE_BYTES),
    "run.json": (5, MAX_DOCUMENT_BYTES),
    f"approvals/{SITE}.json": (5, MAX_ENVELOPE_BYTES),
    f"attestations/{SITE}.json": (5, MAX_ENVELOPE_BYTES),
    "log/checkpoint": (5, MAX_NOTE_BYTES),
    "log/entries.jsonl": (5, MAX_LOG_BYTES),
    "adapter/adapter_model.safetensors": (10, 1 << 20),
    CERTIFICATE: (11, MAX_ENVELOPE_BYTES),
    REPORT: (12, MAX_REPORT_BYTES),
}


@pytest.mark.parametrize("file", LIMITS)
def test_a_file_that_is_too_large_is_named_and_not_read(run, monkeypatch, file):
    """The coordinator signs it as it is; what verifies it has a memory to lose."""
    monkeypatch.setattr(evidence, "MAX_ADAPTER_BYTES", 1 << 20)
    coordinator, (number, most) = Coordinator(run), LIMITS[file]
    os.truncate(run / file, most + 1)
    found = first_failure(run) if number < 4 else coordinator.seal()
    assert found[0] == number
    assert f"{file} has {most + 1} bytes; at most {most} are read" in found[1]


@pytest.mark.parametrize("file", ["plan.json", MANIFEST])
def test_a_pipe_is_not_waited_for(run, file):
    """Before the check that finds what is no file."""
    (run / file).unlink()
    os.mkfifo(run / file)
    number, reason = first_failure(run)
    assert number == LIMITS[file][0]
    assert "expected a regular file" in reason
    assert file in reason


# ---- a coordinator that signs what it changed


@pytest.mark.parametrize("folder", ["approvals", "attestations"])
def test_the_coordinator_cannot_change_what_others_signed(run, folder):
    coordinator, path = Coordinator(run), run / folder / f"{SITE}.json"
    good = path.read_bytes()
    for at in range(0, len(good), 31):
        flip(path, at)
        assert coordinator.seal()[0] == 5, at
        path.write_bytes(good)
    path.unlink()
    assert coordinator.seal()[0] == (5 if folder == "approvals" else 8)
    (run / folder / "kingsway.json").write_bytes(good)
    path.write_bytes(good)
    assert coordinator.seal()[0] == 5


def test_the_coordinator_cannot_change_the_log(run):
    coordinator = Coordinator(run)
    for file in ("entries.jsonl", "checkpoint"):
        path, good = run / "log" / file, (run / "log" / file).read_bytes()
        for at in range(0, len(good), 97):
            flip(path, at)
            assert coordinator.seal()[0] == 5, (file, at)
            path.write_bytes(good)
    entries = coordinator.entries()
    few = list(coordinator.site_keys)[: coordinator.plan.secure.quorum - 1]
    coordinator.write_log(entries, helpers=few)
    assert "checkpoint check 4" in coordinator.seal()[1]


def test_a_log_of_another_run_or_without_its_end_is_refused(run):
    coordinator = Coordinator(run)
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"run": "two"}))
    assert coordinator.seal()[0] == 5
    (run / "run.json").write_text(json.dumps(about))
    entries = coordinator.entries()
    coordinator.write_log(entries[:-1])
    assert coordinator.seal() == (6, "the cosigned log does not end with the run's end")


def test_an_approval_that_had_ended_is_found(run):
    coordinator = Coordinator(run)
    coordinator.write_log(coordinator.entries(), at=int(datetime.datetime(2099, 1, 1).timestamp()))
    number, reason = coordinator.seal()
    assert number == 7
    assert "the run went on until 2099" in reason


def test_a_log_with_other_approvals_is_found(run):
    coordinator = Coordinator(run)
    entries = coordinator.entries()
    coordinator.write_log(entries[1:])
    assert coordinator.seal() == (7, "the log has approvals of other sites than the folder")
    coordinator.write_log([entries[0].model_copy(update={"policy_sha256": "0" * 64}), *entries[1:]])
    assert "the log has another approval" in coordinator.seal()[1]


def test_too_few_attestations_are_found(run):
    coordinator = Coordinator(run)
    gone = list(coordinator.site_keys)[coordinator.plan.secure.quorum - 1 :]
    for site in gone:
        (run / "attestations" / f"{site}.json").unlink()
    assert coordinator.seal() == (8, "the log has attestations of other sites than the folder")
    entries = coordinator.entries()
    coordinator.write_log([e for e in entries if not (isinstance(e, AttestationEntry) and e.site in gone)])
    assert coordinator.seal() == (8, "4 sites attest; expected 5")


@pytest.mark.parametrize(
    ("change", "number", "why"),
    [
        ({"policy_sha256": "0" * 64}, 8, "under another approval or policy"),
        ({"approval_sha256": "0" * 64}, 8, "under another approval or policy"),
        ({"run": "another"}, 5, "attestation check 5"),
        ({"plan_sha256": "0" * 64}, 5, "attestation check 4"),
        ({"site": "harbour"}, 5, "attestation check"),
    ],
)
def test_attestations_that_contradict_the_rest_are_found(run, change, number, why):
    coordinator = Coordinator(run)
    said = coordinator.attestation()
    entries = coordinator.entries()
    lie = said.model_copy(update=change)
    signed = sign_attestation(lie, coordinator.site_keys[SITE])
    (run / "attestations" / f"{SITE}.json").write_bytes(signed)
    if number == 8:
        coordinator.with_attestation(lie)
    found = coordinator.seal()
    assert found[0] == number
    assert why in found[1]
    assert entries


def test_an_attestation_that_the_log_does_not_hold_is_found(run):
    coordinator = Coordinator(run)
    lie = coordinator.attestation().model_copy(update={"versions": {"fedsec": "9"}})
    (run / "attestations" / f"{SITE}.json").write_bytes(sign_attestation(lie, coordinator.site_keys[SITE]))
    assert coordinator.seal() == (8, f"the log has another attestation of {SITE} than the folder")


def test_rounds_that_do_not_hold_together_are_found(run):
    coordinator = Coordinator(run)
    entries = coordinator.entries()

    def edited(kind, **change):
        place = max(i for i, e in enumerate(entries) if isinstance(e, kind))
        return [*entries[:place], entries[place].model_copy(update=change), *entries[place + 1 :]]

    cases = [
        (edited(AggregateEntry, adapter_before_sha256="0" * 64), "did not start from the adapter"),
        (edited(AggregateEntry, adapter_after_sha256="0" * 64), "0 sites attest the adapter that the log names"),
        (edited(SurvivorsEntry, sites=("clifton", "harbour")), "2 survivors; the floors ask for 5"),
        (edited(SurvivorsEntry, sites=tuple(list(coordinator.site_keys)[1:])), "the log counts it out"),
        ([e for e in entries if not (isinstance(e, AggregateEntry) and e.round == 1)], "sums of rounds [0]"),
    ]
    for log, why in cases:
        coordinator.write_log(log)
        found = coordinator.seal()
        assert found[0] == 9, why
        assert why in found[1]


def test_a_policy_that_asked_for_more_officers_than_signed_counts(run):
    coordinator = Coordinator(run)
    said = coordinator.attestation()
    floors = said.floors.model_copy(update={"approvals_required": 2})
    coordinator.with_attestation(said.model_copy(update={"floors": floors}))
    assert coordinator.seal() == (8, f"the policy of {SITE} asks for 2 officers; 1 signed")


def test_an_adapter_that_a_site_withholds_does_not_pass(run):
    coordinator = Coordinator(run)
    said = coordinator.attestation()
    floors = said.floors.model_copy(update={"max_exposure": 2.0})
    known = said.canaries.model_copy(update={"bits": (7.0, 7.0, 7.0, 0.0)})
    coordinator.with_attestation(said.model_copy(update={"floors": floors, "canaries": known}))
    why = f"{SITE} withholds the adapter: its canaries are exposed by 5.25 bits in the mean of 4; its policy allows 2"
    assert coordinator.seal() == (8, why)


def test_a_site_whose_measurement_was_left_out_is_missed(run):
    """Enough attest without it; but it was in the last sum, and nobody knows what it would have said."""
    coordinator = Coordinator(run)
    (run / "attestations" / f"{SITE}.json").unlink()
    left = [e for e in coordinator.entries() if not (isinstance(e, AttestationEntry) and e.site == SITE)]
    coordinator.write_log(left)
    assert coordinator.seal() == (8, f"{SITE} attests no exposure of canaries; every site of the last sum has to")


def test_a_stricter_floor_of_one_site_counts(run):
    coordinator = Coordinator(run)
    said = coordinator.attestation()
    coordinator.with_attestation(
        said.model_copy(update={"floors": said.floors.model_copy(update={"minimum_cohort": 7})})
    )
    assert "6 survivors; the floors ask for 7" in coordinator.seal()[1]


def test_another_adapter_is_found(run):
    coordinator = Coordinator(run)
    flip(run / "adapter" / "adapter_model.safetensors", -9 % (run / "adapter/adapter_model.safetensors").stat().st_size)
    assert coordinator.seal() == (10, "the adapter in the folder is not the one that the log registers for this run")


def test_a_certificate_that_says_something_else_is_found(run):
    coordinator = Coordinator(run)
    path = run / CERTIFICATE
    statement = open_certificate(path.read_bytes(), coordinator.key.public)
    was = statement.predicate
    lies = [
        {"refusals": was.refusals + 1},
        {"not_attested": ("harbour",)},
        {"plan": was.plan.model_copy(update={"dp_mode": "local"})},
        {"rounds": (was.rounds[0].model_copy(update={"survivors": was.rounds[0].survivors[1:]}), *was.rounds[1:])},
        {"sites": was.sites[1:]},
        {"approvals": was.approvals[1:]},
        {"log": was.log.model_copy(update={"entries": 3})},
        {"adapter_sha256": "0" * 64},
        {"run": "two"},
    ]
    for lie in lies:
        changed = statement.model_copy(update={"predicate": was.model_copy(update=lie)})
        path.write_bytes(sign_certificate(changed, coordinator.key))
        assert coordinator.seal() == (
            11,
            f"the certificate's {next(iter(lie))} is not what approvals, log, attestations and adapter say",
        )
    path.write_bytes(sign_certificate(statement.model_copy(update={"subject": ()}), coordinator.key))
    assert "the certificate's subject" in coordinator.seal()[1]
    path.write_bytes(sign_certificate(statement, SigningKey.generate()))
    assert coordinator.seal()[0] == 11
    path.unlink()
    assert coordinator.seal() == (11, f"there is no {CERTIFICATE}")


def test_a_report_of_another_certificate_is_found(run):
    coordinator = Coordinator(run)
    path = run / REPORT
    good = path.read_text()
    path.write_text("<html></html>")
    assert coordinator.seal()[0] == 12
    path.unlink()
    assert coordinator.seal() == (12, f"there is no {REPORT} that can be read")
    path.write_text(good)
    assert coordinator.seal() == (0, "")


def test_the_certificate_is_in_toto_and_dsse(run):
    """What a stranger's tool expects to find."""
    envelope = json.loads((run / CERTIFICATE).read_bytes())
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:fedsec:certificate:v1"
    assert {s["name"] for s in statement["subject"]} == {
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
    }
    assert all(len(s["digest"]["sha256"]) == 64 for s in statement["subject"])


def test_an_unfinished_run_is_not_verified(fedsec, run):
    (run / MANIFEST).unlink()
    result = fedsec("verify", run)
    assert result.code == 1
    assert "the run is not finished" in " ".join(result.out.split())
    assert fedsec("verify", run / "nowhere").code == 1
