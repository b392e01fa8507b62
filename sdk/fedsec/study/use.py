"""Using a finished adapter: predictions with offsets, and scores on any corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsec.data.answers import parse_answer
from fedsec.data.schema import Document, Entity, Relation
from fedsec.data.templates import make_prompt
from fedsec.data.titles import make_title_prompt, title_of
from fedsec.data.windows import Window, make_windows
from fedsec.evaluation.generate import generate_answers
from fedsec.plan.model import Plan
from fedsec.plan.specs import TaskSpec
from fedsec.study.adapted import is_adapted, open_adapted
from fedsec.study.folder import RunFolder
from fedsec.training.adapter import AdapterState, load_peft
from fedsec.training.base_model import load_base
from fedsec.training.lora import lora_shapes
from fedsec.training.replicas import Replicas
from fedsec_secure.errors import ConfigError


@dataclass(frozen=True)
class LabelSet:
    """What one prompt asks for: sites teach the labels that they annotate together, and no other combination."""

    entity_types: tuple[str, ...]
    relation_types: tuple[str, ...]

    @classmethod
    def of(cls, task: TaskSpec, names: str) -> LabelSet:
        """From names with commas between them, in the study's order. ConfigError for what cannot be asked for."""
        asked = {name.strip() for name in names.split(",")} - {""}
        unknown = sorted(asked - {*task.entity_types, *task.relation_types})
        if unknown:
            known = ", ".join((*task.entity_types, *task.relation_types))
            raise ConfigError(f"the study has no label {', '.join(unknown)}; expected some of {known}")
        chosen = tuple(tuple(t for t in types if t in asked) for types in (task.entity_types, task.relation_types))
        if not chosen[0]:
            raise ConfigError(f"{names!r} names no entity type: a prompt asks for one at least, and links between them")
        return cls(*chosen)


_Answer = tuple[Window, LabelSet, str]
"""What was shown, what was asked for, and what came."""


@dataclass(frozen=True)
class Finished:
    """A run's adapter, ready to answer."""

    plan: Plan
    models: Replicas
    adapter: AdapterState
    trained_on: LabelSet | None = None
    """What one hospital taught it after the run, where it did. Which labels a run's own sites annotate is in their site
    files and nowhere else."""

    @property
    def remark(self) -> str:
        """What whoever reads the answers has to know; empty where there is nothing."""
        untrained = not any(tensor.any() for name, tensor in self.adapter.items() if ".lora_B." in name)
        if self.plan.lora.strategy != "fedsa" or not untrained:
            return ""
        return (
            "with strategy fedsa each site's B stayed there: this adapter answers as the base model does. A site "
            "writes its own with `fedsec site personal`, and names it with --adapter"
        )

    @classmethod
    def load(cls, run: Path, adapter: Path | None = None) -> Finished:
        """From a run folder, or what `fedsec site adapt` made of one. ``adapter``: another PEFT folder of the run's
        shape, as a site's personal one.

        ConfigError where a run has no adapter yet, or the other one does not fit it.
        """
        if is_adapted(run):
            if adapter is not None:
                raise ConfigError(f"{run} is an adapted model with an adapter of its own; leave out --adapter")
            own = open_adapted(run)
            taught = LabelSet(own.record.records.entity_types, own.record.records.relation_types)
            return cls(own.plan, Replicas(load_base(own.model)), own.adapter, taught)
        folder = RunFolder.open(run)
        if not (folder.adapter / "adapter_config.json").is_file():
            return cls._at_a_site(folder, adapter)
        found = load_peft(folder.adapter)
        if adapter is not None:
            other = load_peft(adapter)
            if other.shapes != found.shapes:
                raise ConfigError(f"{adapter} has other tensors than the adapter of {run}; give one of that run")
            found = other
        return cls(folder.plan, Replicas(load_base(folder.plan.model)), found)

    @classmethod
    def _at_a_site(cls, folder: RunFolder, adapter: Path | None) -> Finished:
        """Where the run folder has no adapter: one that a site wrote, if the run's sums were encrypted."""
        if not (folder.plan.secure.is_encrypted and folder.distributed):
            raise ConfigError(f"{folder.path} has no adapter yet: finish it with {folder.goes_on_by}")
        if adapter is None:
            raise ConfigError(
                f"the sums of {folder.path} were encrypted, and only its sites have the adapter: write it there with "
                "`fedsec site adapter`, and give that folder as --adapter"
            )
        base, found = load_base(folder.plan.model), load_peft(adapter)
        if found.shapes != lora_shapes(base, folder.plan.lora):
            raise ConfigError(f"{adapter} has other tensors than the adapter of {folder.path}; give one of that run")
        return cls(folder.plan, Replicas(base), found)

    def predict(
        self,
        documents: Sequence[Document],
        on_batch: Callable[[int, int], None] | None = None,
        asked: Sequence[str] = (),
    ) -> Iterator[Document]:
        """The documents with what the model reads in them, or calls them; annotations that they had are not looked at.

        Offsets count code points of the document's text. Entities that the model names but the text does not hold are
        left out. ``asked``: labels with commas between them, a prompt each, whose answers are put together; left out,
        one prompt asks for what a hospital taught the adapter after the run, or else for all labels of the study.
        """
        if self.plan.task.kind == "title":
            if asked:
                raise ConfigError("this adapter writes titles, and has no labels to ask for; leave --ask out")
            yield from self._titled(documents, on_batch)
            return
        if self.plan.task.kind == "relations":
            raise ConfigError("this adapter links given mentions (task.kind = relations); it cannot read a bare note")
        task, sets = self.plan.task, self._label_sets(asked)
        bare = [d.model_copy(update={"entities": (), "relations": None}) for d in documents]
        places = [(w, one) for d in bare for w in make_windows(d, task.window)[0] for one in sets]
        prompts = [make_prompt(w.text, one.entity_types, one.relation_types or None) for w, one in places]
        answers = self._answers(prompts, on_batch)
        found: dict[str, list[_Answer]] = {d.document_id: [] for d in bare}
        for (window, one), answer in zip(places, answers, strict=True):
            found[window.document_id].append((window, one, answer))
        with_relations = any(one.relation_types for one in sets)
        for document in bare:
            yield _annotated(document, found[document.document_id], with_relations=with_relations)

    def _label_sets(self, asked: Sequence[str]) -> list[LabelSet]:
        """A prompt's labels each, none twice."""
        task = self.plan.task
        every = self.trained_on or LabelSet(task.entity_types, task.relation_types)
        return list(dict.fromkeys(LabelSet.of(task, names) for names in asked)) or [every]

    def _answers(self, prompts: Sequence[str], on_batch: Callable[[int, int], None] | None) -> list[str]:
        spec = self.plan.evaluation
        return generate_answers(
            self.models,
            self.adapter,
            self.plan.lora,
            prompts,
            max_new_tokens=spec.max_new_tokens,
            batch_size=spec.batch_size,
            on_batch=None if on_batch is None else lambda done: on_batch(done, len(prompts)),
        )

    def _titled(self, documents: Sequence[Document], on_batch: Callable[[int, int], None] | None) -> Iterator[Document]:
        """The documents with the title that the model writes; one that they had is neither shown to it nor kept."""
        answers = self._answers([make_title_prompt(d.body[1]) for d in documents], on_batch)
        for document, answer in zip(documents, answers, strict=True):
            bare = {"entities": (), "relations": None}
            yield document.model_copy(update={**bare, "title": title_of(answer) or None})


def _annotated(document: Document, answers: Iterable[_Answer], *, with_relations: bool) -> Document:
    """The document with everything that its answers name, each once, whichever of them name it."""
    ids: dict[tuple[str, int, int], str] = {}
    relations: dict[tuple[str, str, str], Relation] = {}
    for window, asked, answer in answers:
        parsed = parse_answer(answer, window.text, asked.entity_types, asked.relation_types)
        for e in parsed.entities:
            ids.setdefault((e.type, e.start + window.offset, e.end + window.offset), f"T{len(ids) + 1}")
        for r in parsed.relations:
            head, tail = (ids[e.type, e.start + window.offset, e.end + window.offset] for e in (r.head, r.tail))
            relations[r.type, head, tail] = Relation(type=r.type, head=head, tail=tail)
    entities = tuple(
        Entity(id=i, type=t, start=start, end=end, text=document.text[start:end]) for (t, start, end), i in ids.items()
    )
    known = tuple(relations.values()) if with_relations else None
    return document.model_copy(update={"entities": entities, "relations": known})
