"""What must hold of the repository itself, whatever the code does."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEM_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?:\s|\\n)+[A-Za-z0-9+/=]{40}")
KEY_FILE = re.compile(r"(?:\.(?:key|p12|pfx|jks)|(?:^|/)id_(?:ed25519|rsa|ecdsa))$")
# The pieces are joined so that this file does not name what it looks for.
REGISTRIES = re.compile("|".join(re.escape(".".join(host)) for host in (("pypi", "org"), ("pythonhosted", "org"))))
PIP_LOCATIONS = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host|file:/|https?:/")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def repository_files() -> list[Path]:
    """List the files that are, or would be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: the list of committed files is unknown")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def documents() -> list[Path]:
    """List every Markdown page."""
    return [path for path in repository_files() if path.suffix == ".md"]


def requirement_files() -> list[Path]:
    """List the lock files."""
    return sorted((ROOT / "requirements").glob("*.txt"))


def without_code(page: Path) -> str:
    """Read a page without its code blocks, in which nothing is a link or a heading."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def headings(page: Path) -> set[str]:
    """List the names that forges give the headings of a page."""
    named = re.findall(r"^#+ (.+)$", without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in named}


def leads_somewhere(page: Path, target: str) -> bool:
    """Tell whether a relative link has its file and, where that is a page, its heading."""
    path, _, part = target.partition("#")
    found = page.parent / path if path else page
    return found.exists() and (not part or found.suffix != ".md" or part in headings(found))


def broken_links(page: Path) -> list[str]:
    """List the relative links of a page that lead nowhere."""
    targets = [first or second for first, second in LINK.findall(without_code(page))]
    relative = [target for target in targets if not re.match(r"[a-z]+:", target)]
    return [target for target in relative if not leads_somewhere(page, target)]


def test_no_private_key_is_in_the_repository() -> None:
    found = [str(path.relative_to(ROOT)) for path in repository_files() if PEM_KEY.search(path.read_bytes())]
    named = [name for path in repository_files() if KEY_FILE.search(name := path.relative_to(ROOT).as_posix())]
    assert found == []
    assert named == []


def test_the_key_scan_recognises_a_key() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert PEM_KEY.search(pem)
    assert PEM_KEY.search(pem.replace(b"\n", rb"\n"))
    assert KEY_FILE.search("sites/one/site.key")


@pytest.mark.parametrize("folder", ["sdk", "secure"])
def test_source_roots_are_not_packages(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("package", ["sdk/fedsec", "secure/fedsec_secure"])
def test_packages_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_every_folder_with_code_is_a_package() -> None:
    """A folder without `__init__.py` would be left out of import checks and type checks without a word."""
    folders = {path.parent for base in ("sdk/fedsec", "secure/fedsec_secure") for path in (ROOT / base).rglob("*.py")}
    assert folders
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_no_package_registry_is_named() -> None:
    named = [
        str(path.relative_to(ROOT))
        for path in repository_files()
        if REGISTRIES.search(path.read_bytes().decode("utf-8", errors="replace"))
    ]
    assert named == []


@pytest.mark.parametrize("lock", requirement_files(), ids=lambda path: path.name)
def test_locks_pin_by_hash_and_name_no_place(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert not PIP_LOCATIONS.search(text)
    blocks = re.split(r"\n(?=[a-z0-9])", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).strip())
    unpinned = [b.split()[0] for b in blocks if not re.match(r"[a-z0-9._-]+==[^\s;]+[^\n]*\\\n +--hash=sha256:", b)]
    assert unpinned == []


def test_locks_hold_every_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {
        "runtime.txt": project["project"]["dependencies"],
        "build.txt": project["build-system"]["requires"],
        "test.txt": project["dependency-groups"]["test"],
        "paper.txt": project["dependency-groups"]["paper"],
        "lock.txt": project["dependency-groups"]["lock"],
    }
    from packaging.requirements import Requirement

    for lock, requirements in wanted.items():
        pins = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / "requirements" / lock).read_text(), re.MULTILINE))
        for requirement in map(Requirement, requirements):
            assert requirement.name in pins, f"{requirement} is not in requirements/{lock}: run `make lock`"
            assert requirement.specifier.contains(pins[requirement.name]), f"{requirement} in {lock}: run `make lock`"


def test_relative_links_resolve() -> None:
    broken = {str(page.relative_to(ROOT)): links for page in documents() if (links := broken_links(page))}
    assert broken == {}


def test_the_link_check_sees_a_broken_link(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Here, then\n[a](gone.md#part) [b](page.md) [c](#here-then) ![d](no.png) [e](mailto:x@example.org)\n"
        "```\n# No\n[f](no)\n```\n[g](#no) [h](page.md#here-then) [i](page.md#there)\n"
    )
    assert broken_links(page) == ["gone.md#part", "no.png", "#no", "page.md#there"]
