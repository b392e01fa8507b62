"""Site files: one hospital's own settings, strictly read, relative to the file."""

from pathlib import Path

import pytest

from fedsec.plan.sitefile import DataSection, SiteFile, load_site, load_sites, site_paths
from fedsec.plan.toml import parse_toml, write_toml
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import SigningKey

OFFICER = SigningKey.generate().public


def text(name="ash", data='path = "notes.jsonl"', top=""):
    return f'name = "{name}"\nofficer = "{OFFICER.hex}"\n{top}\n[data]\n{data}\n'


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "site.toml").write_text(text(top='key = "keys/k"\nstate = "/var/state"'))
    site = load_site(tmp_path / "site.toml")
    assert (site.name, site.officer) == ("ash", OFFICER)
    assert site.key_path == tmp_path / "keys/k"
    assert site.state_path == Path("/var/state")
    assert site.policy_path == tmp_path / "policy.toml"
    assert site.approval_path == tmp_path / "approval.json"
    assert site.revocations_path == tmp_path / "revocations"
    assert site.resolve(site.file.data.path) == tmp_path / "notes.jsonl"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("", "takes the field path"),
        ('path = "x"\ncorpus = "bc5cdr"', "takes the field path"),
        ('path = "x"\nsplit = "train"', "neither corpus nor split"),
        ('format = "corpus"', "takes the field corpus"),
        ('format = "corpus"\ncorpus = "phee"\npath = "x"', "no path"),
        ('format = "csv"\npath = "x"', "data.format: expected"),
        ('path = "x"\nentity_types = []', "nothing to train on"),
        ('path = "x"\none_patient_each = true', "jsonl says whose each note is"),
        ('path = "x"\nentity_types = ["A", "A"]', "twice"),
        ('path = "x"\nlimit = 0', "data.limit"),
        ('path = "x"\nurl = "y"', "data.url: unknown field"),
    ],
)
def test_the_data_section_names_one_source(data, match):
    with pytest.raises(ConfigError, match=match):
        parse_toml(text(data=data).encode(), SiteFile, "site.toml")


def test_a_site_without_relation_labels_differs_from_one_with_none(tmp_path):
    for line, expected in (("", None), ("relation_types = []", ())):
        (tmp_path / "s.toml").write_text(text(data=f'path = "x"\n{line}'))
        assert load_site(tmp_path / "s.toml").file.data.relation_types == expected


def test_an_officer_must_be_pinned():
    with pytest.raises(ConfigError, match="officer: this field is missing"):
        parse_toml(b'name = "a"\n[data]\npath = "x"\n', SiteFile, "site.toml")
    with pytest.raises(ConfigError, match="small order"):
        parse_toml(text().replace(OFFICER.hex, "01" + "00" * 31).encode(), SiteFile, "site.toml")


def test_several_officers_are_pinned_in_their_order_each_once(tmp_path):
    others = [SigningKey.generate().public for _ in range(2)]
    listed = ", ".join(f'"{key.hex}"' for key in others)
    (tmp_path / "site.toml").write_text(text(top=f"co_officers = [{listed}]"))
    assert load_site(tmp_path / "site.toml").officers == (OFFICER, *others)
    for wrong, match in ((OFFICER.hex, "named twice"), ("01" + "00" * 31, "co_officers: .*small order")):
        with pytest.raises(ConfigError, match=match):
            parse_toml(text(top=f'co_officers = ["{others[0].hex}", "{wrong}"]').encode(), SiteFile, "site.toml")


def test_a_folder_of_sites(tmp_path):
    for name in ("oak", "ash"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "site.toml").write_text(text(name))
    (tmp_path / "plan.toml").write_text("beside = 'the sites, and none of them'")
    assert list(load_sites(tmp_path)) == ["ash", "oak"]
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin" / "site.toml").write_text(text("ash"))
    with pytest.raises(ConfigError, match="two files call their site ash"):
        load_sites(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no site file"):
        site_paths(tmp_path / "empty")


def test_a_site_file_reads_back_as_written():
    site = SiteFile(name="ash", officer=OFFICER.hex, data=DataSection(format="corpus", corpus="phee", split="train"))
    assert parse_toml(write_toml(site, "Site").encode(), SiteFile, "x") == site
