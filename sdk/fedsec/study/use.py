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
from fedsec.study.adapted import is_adapted, open_adapted
from fedsec.study.folder import RunFolder
from fedsec.training.adapter import AdapterState, load_peft
from fedsec.training.base_model import load_base
from fedsec.training.replicas import Replicas
from fedsec_secure.errors import ConfigError


@dataclass(frozen=True)
class Finished:
    """A run's adapter, ready to answer."""

    plan: Plan
    models: Replicas
    adapter: AdapterState

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
            return cls(own.plan, Replicas(load_base(own.model)), own.adapter)
        folder = RunFolder.open(run)
        if not (folder.adapter / "adapter_config.json").is_file():
            raise ConfigError(f"{run} has no adapter yet: finish it with `fedsec resume {run}`")
        found = load_peft(folder.adapter)
        if adapter is not None:
            other = load_peft(adapter)
            if other.shapes != found.shapes:
                raise ConfigError(f"{adapter} has other tensors than the adapter of {run}; give one of that run")
            found = other
        return cls(folder.plan, Replicas(load_base(folder.plan.model)), found)

    def predict(
        self, documents: Sequence[Document], on_batch: Callable[[int, int], None] | None = None
    ) -> Iterator[Document]:
        """The documents with what the model reads in them, or calls them; annotations that they had are not looked at.

        Offsets count code points of the document's text. Entities that the model names but the text does not hold are
        left out.
        """
        if self.plan.task.kind == "title":
            yield from self._titled(documents, on_batch)
            return
        if self.plan.task.kind == "relations":
            raise ConfigError("this adapter links given mentions (task.kind = relations); it cannot read a bare note")
        task = self.plan.task
        bare = [d.model_copy(update={"entities": (), "relations": None}) for d in documents]
        windows = [w for d in bare for w in make_windows(d, task.window)[0]]
        prompts = [make_prompt(w.text, task.entity_types, task.relation_types or None) for w in windows]
        answers = self._answers(prompts, on_batch)
        found: dict[str, list[tuple[Window, str]]] = {d.document_id: [] for d in bare}
        for window, answer in zip(windows, answers, strict=True):
            found[window.document_id].append((window, answer))
        for document in bare:
            yield self._annotated(document, found[document.document_id])

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

    def _annotated(self, document: Document, answers: Iterable[tuple[Window, str]]) -> Document:
        task = self.plan.task
        ids: dict[tuple[str, int, int], str] = {}
        relations: list[Relation] = []
        for window, answer in answers:
            parsed = parse_answer(answer, window.text, task.entity_types, task.relation_types)
            for e in parsed.entities:
                ids.setdefault((e.type, e.start + window.offset, e.end + window.offset), f"T{len(ids) + 1}")
            for r in parsed.relations:
                head, tail = (ids[e.type, e.start + window.offset, e.end + window.offset] for e in (r.head, r.tail))
                relations.append(Relation(type=r.type, head=head, tail=tail))
        entities = tuple(
            Entity(id=i, type=t, start=start, end=end, text=document.text[start:end])
            for (t, start, end), i in ids.items()
        )
        known = tuple(relations) if task.relation_types else None
        return document.model_copy(update={"entities": entities, "relations": known})
