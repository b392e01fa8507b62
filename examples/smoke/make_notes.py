"""Writes the notes of this example again: six invented hospitals (the sixth shares a style with the first)."""

from pathlib import Path

from fedsec.data.readers.jsonl import write_jsonl
from fedsec.data.synthetic import STYLES, hospital, make_site
from fedsec.plan.sitefile import DataSection, SiteTemplate
from fedsec.plan.toml import write_toml
from fedsec.study.corpora import PublicFile

HERE = Path(__file__).parent / "sites"


def main() -> None:
    for index, style in enumerate([*STYLES, STYLES[0]]):
        here = hospital(style)
        name = style if index < len(STYLES) else f"{style}-south"
        folder = HERE / name
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / "notes.jsonl", make_site(style, "train", 24, 100 + index))
        data = DataSection(path="notes.jsonl", entity_types=here.entity_types, relation_types=here.relation_types)
        heading = f"{here.title}: an invented hospital. Keys, policy and approval are made by `fedsec run --init`."
        (folder / "site.toml").write_text(write_toml(SiteTemplate(name=name, data=data), heading), encoding="utf-8")
    public = HERE / "public"
    public.mkdir(exist_ok=True)
    for style in STYLES[:2]:
        write_jsonl(public / f"{style}.jsonl", make_site(style, "test", 4, 100))
        text = write_toml(PublicFile(data=DataSection(path=f"{style}.jsonl")), f"Public test set, style {style}")
        (public / f"{style}.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
