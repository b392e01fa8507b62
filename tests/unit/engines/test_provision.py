"""What kits are asked for, before NVFlare's provisioner sees it."""

import pytest

from fedsec.engines.nvflare.provision import provision
from fedsec_secure.errors import ConfigError

SITES = ["ash", "birch"]


@pytest.mark.parametrize(
    "host",
    [
        *("", "hub example", "https://hub.example.org", "hub.example.org:9000", "fd00::1", "-hub.example.org"),
        *("hub..org", "hub.example.org.", "h" * 64, f"{'h' * 60}.org1", "hub\n"),
    ],
)
def test_what_is_no_name_is_refused_and_nothing_is_made(tmp_path, host):
    with pytest.raises(ConfigError, match="expected the server's name or IPv4 address"):
        provision(SITES, host, 8002, tmp_path / "kits")
    assert not (tmp_path / "kits").exists()


def test_the_server_has_no_sites_name(tmp_path):
    with pytest.raises(ConfigError, match="birch is the name of a site in the plan"):
        provision(SITES, "birch", 8002, tmp_path / "kits")


def test_kits_are_made_into_an_empty_folder(tmp_path):
    (tmp_path / "file").write_text("notes")
    with pytest.raises(ConfigError, match="file is a file; kits are made into a new folder"):
        provision(SITES, "hub.example.org", 8002, tmp_path / "file")
    with pytest.raises(ConfigError, match="is not empty"):
        provision(SITES, "hub.example.org", 8002, tmp_path)
    assert (tmp_path / "file").read_text() == "notes"
