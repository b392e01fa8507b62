"""`fedsec keys rotate` and `fedsec keys revoke`."""

import stat

import pytest

from fedsec.plan.revocation import open_revocation, read_revocation
from fedsec.plan.spoken import spoken
from fedsec_secure.errors import VerificationError
from fedsec_secure.identity import pkcs8
from fedsec_secure.identity.keys import SigningKey


@pytest.fixture(autouse=True)
def fast_scrypt(monkeypatch):
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 1 << 10)


@pytest.fixture
def key(tmp_path):
    made = SigningKey.generate()
    made.save(tmp_path / "old")
    return made


@pytest.fixture
def officer(tmp_path):
    made = SigningKey.generate()
    made.save(tmp_path / "officer")
    return made


def test_a_rotation_makes_a_key_and_a_statement_by_both(fedsec, tmp_path, key):
    before = (tmp_path / "old").read_bytes()
    done = fedsec("keys", "rotate", "old", "--out", "new", "--json")
    assert done.code == 0
    new = SigningKey.load(tmp_path / "new").public
    revoked = open_revocation((tmp_path / "new.rotation.json").read_bytes())
    assert revoked.is_rotation
    assert (revoked.said.key, revoked.said.replaced_by) == (key.public.hex, new.hex)
    assert (done.json["revoked"], done.json["replaced_by"], done.json["rotation"]) == (key.public.hex, new.hex, True)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    assert (tmp_path / "old").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "new.rotation.json", "old"]


def test_a_rotated_key_is_encrypted_as_the_old_one_was(fedsec, tmp_path, key, monkeypatch):
    monkeypatch.setenv("FEDSEC_PASSPHRASE", "four horses")
    SigningKey.generate().save(tmp_path / "locked", b"four horses")
    for old, more, encrypted in (
        ("old", (), False),
        ("locked", (), True),
        ("old", ("--passphrase",), True),
        ("locked", ("--no-passphrase",), False),
    ):
        name = f"{old}-{len(more)}"
        assert fedsec("keys", "rotate", old, "--out", name, "--quiet", *more).out == ""
        assert (b"ENCRYPTED" in (tmp_path / name).read_bytes()) == encrypted
        assert SigningKey.load(tmp_path / name, b"four horses" if encrypted else None)


def test_nothing_is_overwritten_by_a_rotation(fedsec, tmp_path, key):
    fedsec("keys", "rotate", "old", "--out", "new")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    again = fedsec("keys", "rotate", "old", "--out", "new")
    assert (again.code, again.out) == (2, "")
    assert fedsec("keys", "rotate", "old", "--out", "no/folder/new").code == 2
    assert fedsec("keys", "rotate", "none", "--out", "other").code == 2
    assert fedsec("keys", "rotate", "old", "--out", "other", "--reason", "two\nlines").code == 2
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_rotation_that_was_killed_between_its_files_says_how_to_finish_it(fedsec, tmp_path, key, monkeypatch):
    def killed(path, data):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fedsec.cli.keys.write_private", killed)
        assert fedsec("keys", "rotate", "old", "--out", "new").code != 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old"]  # a whole key, and no claim about it
    again = fedsec("keys", "rotate", "old", "--out", "new")
    assert again.code == 2
    command = " ".join(again.err.replace("│", " ").split()).split("finish it: ")[1].split("╰")[0].split()
    assert command[:3] == ["fedsec", "keys", "revoke"]
    assert fedsec(*command[1:]).code == 0
    revoked = open_revocation((tmp_path / "new.rotation.json").read_bytes())
    assert revoked.is_rotation
    assert revoked.said.replaced_by == SigningKey.load(tmp_path / "new").public.hex


def test_a_key_revokes_itself(fedsec, tmp_path, key):
    done = fedsec("keys", "revoke", "old", "--reason", "stolen", "--out", "r.json")
    assert done.code == 0
    assert "Send it to every partner" in done.out
    revoked = open_revocation((tmp_path / "r.json").read_bytes())
    assert (revoked.said.key, revoked.said.reason, revoked.said.replaced_by) == (key.public.hex, "stolen", None)
    again = fedsec("keys", "revoke", "old", "--reason", "stolen", "--out", "r.json")
    assert again.code == 2
    assert "never overwritten" in again.err


def test_an_officer_revokes_a_key_that_was_lost(fedsec, tmp_path, officer):
    lost, new = (SigningKey.generate().public for _ in range(2))
    ask = ("keys", "revoke", "--public", lost.hex, "--officer", "officer", "--reason", "lost", "--out", "r.json")
    done = fedsec(*ask, "--replaced-by", new.hex)
    assert done.code == 0
    assert "Put it into the folder" in done.out
    data = (tmp_path / "r.json").read_bytes()
    revoked = open_revocation(data, {officer.public})
    assert (revoked.said.key, revoked.said.replaced_by, revoked.by_owner) == (lost.hex, new.hex, False)
    with pytest.raises(VerificationError, match="revocation check 3"):
        open_revocation(data)


def test_a_successor_whose_key_is_here_signs_as_well(fedsec, tmp_path, key, officer):
    ask = ("keys", "revoke", "old", "--reason", "moved", "--replaced-by")
    assert fedsec(*ask, "officer", "--out", "a.json", "--json").json["rotation"] is True
    assert fedsec(*ask, officer.public.hex, "--out", "b.json", "--json").json["rotation"] is False
    assert fedsec(*ask, "old", "--out", "c.json").code == 2
    lost = ("--public", SigningKey.generate().public.hex, "--officer", "officer", "--reason", "lost")
    twice = fedsec("keys", "revoke", *lost, "--replaced-by", "officer", "--out", "c.json")
    assert twice.code == 2
    assert "expected another one to follow it" in " ".join(twice.err.split())
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    "which",
    [
        (),
        ("old", "--public", "ab" * 32, "--officer", "officer"),
        ("old", "--officer", "officer"),
        ("--public", "ab" * 32),
        ("--officer", "officer"),
        ("--public", "01" + "00" * 31, "--officer", "officer"),
    ],
)
def test_which_key_is_meant_is_said_once(fedsec, tmp_path, key, officer, which):
    refused = fedsec("keys", "revoke", *which, "--reason", "x", "--out", "r.json")
    assert (refused.code, refused.out) == (2, "")
    assert not (tmp_path / "r.json").exists()


def test_show_says_who_follows_whom_and_who_says_so(fedsec, tmp_path, key, officer):
    fedsec("keys", "rotate", "old", "--out", "new")
    shown = fedsec("keys", "show", "new.rotation.json")
    for text in (spoken(key.public), spoken(SigningKey.load(tmp_path / "new").public), "the old key and the new one"):
        assert text in shown.out
    assert "compare its words by telephone" in shown.err
    ask = ("--public", key.public.hex, "--officer", "officer", "--reason", "x", "--out", "r.json")
    fedsec("keys", "revoke", *ask)
    shown = fedsec("keys", "show", "r.json")
    assert "counts only at sites that pin it" in " ".join(shown.out.split())
    assert officer.public.hex in shown.out
    assert fedsec("keys", "show", "r.json", "--json").json["signers"] == [officer.public.hex]
    (tmp_path / "r.json").write_bytes((tmp_path / "r.json").read_bytes().replace(b"keyid", b"keyjd"))
    assert fedsec("keys", "show", "r.json").code == 1


def test_every_line_fits_a_hundred_columns_and_no_private_key_is_shown(fedsec, tmp_path, key, officer):
    results = [
        fedsec("keys", "rotate", "old", "--out", "new"),
        fedsec("keys", "rotate", "old", "--out", "new"),
        fedsec("keys", "revoke", "old", "--reason", "x" * 200, "--out", "a.json"),
        fedsec(
            "keys", "revoke", "--public", key.public.hex, "--officer", "officer", "--reason", "x", "--out", "b.json"
        ),
        fedsec("keys", "show", "b.json"),
    ]
    secrets = [(tmp_path / name).read_text().splitlines()[1] for name in ("old", "new", "officer")]
    for result in results:
        assert max(len(line) for line in (result.out + result.err).splitlines()) <= 100
        assert not any(secret in result.out + result.err for secret in secrets)


def test_the_statement_is_signed_before_the_key_is_there(fedsec, tmp_path, key):
    """Whatever is wrong with the reason is found while there is nothing to clean up."""
    assert fedsec("keys", "rotate", "old", "--out", "new", "--reason", "").code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    with pytest.raises(VerificationError):
        read_revocation((tmp_path / "old").read_bytes())
