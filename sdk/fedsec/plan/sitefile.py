"""``site.toml``: one hospital's own settings. It stays at the site and no message can change it.

Paths are relative to the file. The officer's public key is pinned here: a plan runs only with an approval under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, model_validator

from fedsec.plan.specs import LabelName, PublicKeyHex, SiteName, Strict
from fedsec.plan.toml import read_toml
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import PublicKey

RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
DataFormat = Literal["jsonl", "pubtator", "brat", "phee", "e3c", "corpus"]

COUNTED_AS_PATIENT: Final[Mapping[DataFormat, str]] = MappingProxyType(
    {"pubtator": "abstract", "brat": "file", "phee": "publication", "e3c": "file", "corpus": "publication or case"}
)
"""What stands for a patient in formats that do not say whose a note is."""


class DataSection(Strict):
    """Where notes are and what this site annotated in them."""

    format: DataFormat = "jsonl"
    """``corpus`` reads a corpus by name from the folder that FEDSEC_DATA names."""
    path: RelativePath | None = None
    """A file or folder of that format; left out with format corpus."""
    corpus: SiteName | None = None
    """The corpus's name, with format corpus only."""
    split: Literal["train", "dev", "test"] | None = None
    """Which part of a corpus, with format corpus only."""
    label_map: RelativePath | None = None
    """TOML file that renames the corpus's labels to the plan's."""
    entity_types: tuple[LabelName, ...] | None = None
    """The plan's entity types that this site annotates; left out: all of them, and each occurs in the notes."""
    relation_types: tuple[LabelName, ...] | None = None
    """The plan's relation types that this site annotates; left out: its notes carry no relation labels."""
    one_patient_each: bool = False
    """Only JSON lines say whose a note is. Of another format this says that each file, abstract or publication is all
    that there is of one patient; otherwise a plan whose epsilon is per patient is refused here."""
    exclude_patients: RelativePath | None = None
    """Text file of patient ids, one a line: their documents are left out when the notes are loaded."""
    limit: int | None = Field(None, ge=1)
    """Use at most so many examples, those with the lowest hashes of their ids. Refused where they are trained on, or
    scored, under differential privacy: which ones these are depends on all of them."""

    def excluded_patients(self, folder: Path) -> frozenset[str] | None:
        """The lines of the exclusion list, blank ones and comments aside; None without a list.

        ConfigError for a list that cannot be read: it stops everything. ``folder`` is the file's, for its paths.
        """
        if self.exclude_patients is None:
            return None
        path = folder / Path(self.exclude_patients).expanduser()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path}: the list of excluded patients cannot be read ({type(e).__name__})") from None
        return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))

    @model_validator(mode="after")
    def _source_is_named_once(self) -> DataSection:
        if self.format == "corpus":
            if self.corpus is None or self.path is not None:
                raise ValueError('format "corpus" takes the field corpus (for instance "bc5cdr") and no path')
        elif self.path is None or self.corpus is not None or self.split is not None:
            raise ValueError(f'format "{self.format}" takes the field path, and neither corpus nor split')
        if self.one_patient_each and self.format == "jsonl":
            raise ValueError("format jsonl says whose each note is (patient_id): take one_patient_each out")
        for name, values in (("entity_types", self.entity_types), ("relation_types", self.relation_types)):
            if values is not None and len(set(values)) != len(values):
                raise ValueError(f"{name} names a type twice")
        if self.entity_types == ():
            raise ValueError("entity_types is empty: a site that annotates nothing has nothing to train on")
        return self


class SiteTemplate(Strict):
    """A site file before its officer's key is known, as the examples hold it."""

    name: SiteName
    """The site's name in the plan."""
    key: RelativePath = "site.key"
    """The site's own signing key (mode 0600)."""
    state: RelativePath = "state"
    """Folder for what this site must remember: write-ahead record, checkpoints."""
    population: SiteName | None = None
    """Whose notes these are, for the privacy ledger: the same at sites with the same patients. Default: the name."""
    ledger: RelativePath = "state/ledger.sqlite"
    """The privacy ledger, in a folder of its owner's alone. Every study on these patients uses the same file."""
    policy: RelativePath = "policy.toml"
    """What this site's officer allows."""
    approval: RelativePath = "approval.json"
    """The officer's signed approval of one plan under that policy."""
    revocations: RelativePath = "revocations"
    """Folder of signed revocations of keys and withdrawals of approvals; read before every answer."""
    public: RelativePath = "../public"
    """Folder of the plan's public test sets and validation set, NAME.toml each, for a site on a machine of its own."""
    engine: RelativePath = "engine"
    """Startup kit of the distributed engine: `fedsec coordinator provision` makes it."""
    officer: PublicKeyHex | None = None
    """The officer's public key: only approvals under it, or a co-officer's, count."""
    co_officers: tuple[PublicKeyHex, ...] = Field((), max_length=63)
    """Public keys of further officers. The policy's approvals_required says how many of all of them must sign."""
    data: DataSection
    """The notes to train on."""
    test: DataSection | None = None
    """Held-out notes, scored inside the site."""


class SiteFile(SiteTemplate):
    """A complete ``site.toml``."""

    officer: PublicKeyHex
    """The officer's public key: only approvals under it, or a co-officer's, count."""

    @model_validator(mode="after")
    def _officers_are_keys(self) -> SiteFile:
        for name, key in (("officer", self.officer), *(("co_officers", key) for key in self.co_officers)):
            try:
                PublicKey.from_hex(key)
            except ConfigError as e:
                raise ValueError(f"{name}: {e}") from e
        if len({self.officer, *self.co_officers}) != 1 + len(self.co_officers):
            raise ValueError("co_officers: a key is named twice; every officer has a key of their own")
        return self


@dataclass(frozen=True)
class Site:
    """A site file with the folder that its paths are relative to."""

    file: SiteFile
    folder: Path

    @property
    def name(self) -> str:
        """The site's name in the plan."""
        return self.file.name

    @property
    def officer(self) -> PublicKey:
        """The pinned officer key."""
        return PublicKey.from_hex(self.file.officer)

    @property
    def officers(self) -> tuple[PublicKey, ...]:
        """All pinned officer keys, `officer` first."""
        return tuple(PublicKey.from_hex(key) for key in (self.file.officer, *self.file.co_officers))

    @property
    def key_path(self) -> Path:
        """The site's signing key."""
        return self.resolve(self.file.key)

    @property
    def state_path(self) -> Path:
        """The state folder."""
        return self.resolve(self.file.state)

    @property
    def population(self) -> str:
        """Whose notes these are."""
        return self.file.population or self.file.name

    @property
    def ledger_path(self) -> Path:
        """The privacy ledger, SQLite."""
        return self.resolve(self.file.ledger)

    @property
    def policy_path(self) -> Path:
        """The policy, TOML."""
        return self.resolve(self.file.policy)

    @property
    def approval_path(self) -> Path:
        """The approval, a signed envelope."""
        return self.resolve(self.file.approval)

    @property
    def revocations_path(self) -> Path:
        """The folder of revocations and withdrawals, signed envelopes; it may be missing."""
        return self.resolve(self.file.revocations)

    @property
    def public_path(self) -> Path:
        """The folder of public test sets."""
        return self.resolve(self.file.public)

    @property
    def engine_path(self) -> Path:
        """The engine's startup kit, a folder."""
        return self.resolve(self.file.engine)

    def resolve(self, path: str) -> Path:
        """A path of the site file (for instance ``site.file.data.path``) as one that can be opened."""
        return self.folder / Path(path).expanduser()


def load_site(path: Path) -> Site:
    """Read one ``site.toml``; ConfigError with file and field."""
    return Site(read_toml(path, SiteFile), path.resolve().parent)


def load_sites(folder: Path) -> dict[str, Site]:
    """Every ``FOLDER/*/site.toml`` by site name, sorted; ConfigError for none or for doubles."""
    sites: dict[str, Site] = {}
    for path in site_paths(folder):
        site = load_site(path)
        if site.name in sites:
            raise ConfigError(f"{folder}: two files call their site {site.name}; expected one each")
        sites[site.name] = site
    return dict(sorted(sites.items()))


def site_paths(folder: Path) -> list[Path]:
    """The site files of a folder, sorted by path; ConfigError when there is none."""
    paths = sorted(folder.glob("*/site.toml"))
    if not paths:
        raise ConfigError(f"no site file in {folder}; expected {folder}/NAME/site.toml")
    return paths
