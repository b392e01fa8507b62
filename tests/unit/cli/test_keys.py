"""`fedsec keys`."""

import stat

import pytest

from fedsec.plan.spoken import spoken
from fedsec_secure.identity import pkcs8
from fedsec_secure.identity.keys import SigningKey


@pytest.fixture(autouse=True)
def fast_scrypt(monkeypatch):
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 1 << 10)


def test_a_site_key_without_passphrase(fedsec, tmp_path):
    made = fedsec("keys", "new", "site.key", "--no-passphrase", "--json")
    assert made.code == 0
    key = SigningKey.load(tmp_path / "site.key").public
    assert made.json == {
        "public_key": key.hex,
        "fingerprint": key.fingerprint(),
        "words": spoken(key),
        "path": "site.key",
    }
    assert stat.S_IMODE((tmp_path / "site.key").stat().st_mode) == 0o600
    shown = fedsec("keys", "show", "site.key")
    assert key.hex in shown.out
    assert key.fingerprint() in shown.out
    assert spoken(key).split()[-1] in shown.out
    assert fedsec("keys", "show", key.hex, "--json").json["fingerprint"] == key.fingerprint()


def test_an_officer_key_under_a_passphrase(fedsec, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSEC_PASSPHRASE", "four horses")
    assert fedsec("keys", "new", "officer.key", "--quiet").out == ""
    assert SigningKey.load(tmp_path / "officer.key", b"four horses")
    assert fedsec("keys", "show", "officer.key").code == 0
    monkeypatch.setenv("FEDSEC_PASSPHRASE", "five horses")
    wrong = fedsec("keys", "show", "officer.key")
    assert wrong.code == 2
    assert "passphrase is wrong" in wrong.err
    assert "five horses" not in wrong.err + wrong.out


def test_the_passphrase_is_asked_for_twice_and_never_shown(fedsec, tmp_path, monkeypatch):
    asked = []

    def prompt(text, **how):
        asked.append((text, how))
        return "typed"

    monkeypatch.delenv("FEDSEC_PASSPHRASE", raising=False)
    monkeypatch.setattr("fedsec.cli.keys.typer.prompt", prompt)
    assert fedsec("keys", "new", "k").code == 0
    ((_, how),) = asked
    assert how["hide_input"]
    assert how["confirmation_prompt"]
    assert SigningKey.load(tmp_path / "k", b"typed")


def test_nothing_is_overwritten_and_nothing_is_half_shown(fedsec, tmp_path):
    fedsec("keys", "new", "k", "--no-passphrase")
    before = (tmp_path / "k").read_bytes()
    again = fedsec("keys", "new", "k", "--no-passphrase")
    assert (again.code, again.out) == (2, "")
    assert "never overwritten" in again.err
    assert (tmp_path / "k").read_bytes() == before
    assert fedsec("keys", "show", "none.key").code == 2
    assert fedsec("keys", "show", "zz" * 32).code == 2


def test_a_private_key_never_reaches_the_screen(fedsec, tmp_path):
    result = fedsec("keys", "new", "k", "--no-passphrase")
    body = (tmp_path / "k").read_text().splitlines()[1]
    assert body not in result.out + result.err
    shown = fedsec("keys", "show", "k", "--json")
    assert body not in shown.out + shown.err
