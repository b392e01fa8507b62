"""Instruction templates: how a window becomes a prompt and the answer that a perfect model would write.

One template a task kind. The prompt names the labels that *this* site annotates, so that a site without relation
labels trains on entities only, and no site is taught that what it does not annotate is not there (incomplete
annotations). The words are few on purpose: on a CPU every token is paid for.

    Extract Drug and Problem entities and treats and causes relations.
    Text: Started belvapril for renal spasm.
    Entities and relations:
    belvapril | Drug
    renal spasm | Problem
    belvapril -> renal spasm | treats

Nothing to say is written ``none``. Relation lines carry their type when the *study* has more than one relation type,
whatever the site annotates, so that all sites teach the same form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedsec.data.schema import Document, Entity, Example, Relation
from fedsec.data.windows import Window, WindowCounts, make_all_windows
from fedsec.plan.specs import TaskSpec
from fedsec_secure.errors import ConfigError

NONE = "none"
ARROW = " -> "
BAR = " | "

_LINE_ENDS = dict.fromkeys(map(ord, "\n\r\t\v\f\x1c\x1d\x1e\x85\u2028\u2029"), " ")


@dataclass(frozen=True)
class ExampleCounts:
    """What became of the documents on their way to examples."""

    windows: WindowCounts
    examples: int
    entities: int
    relations: int
    entities_of_other_types: int
    """Mentions whose type is not asked for."""
    relations_of_other_types: int
    """Relations whose type, head or tail type is not asked for."""
    windows_without_a_pair: int
    """Only for the task kind ``relations``: windows with fewer than two mentions, whose answer could only be none."""
    documents_without_a_title: int = 0
    """Only for the task kind ``title``."""


def flat(text: str) -> str:
    """``text`` on one line: every line end or tab becomes one blank, so that offsets stay as they are."""
    return text.translate(_LINE_ENDS)


def instruction(entity_types: Sequence[str], relation_types: Sequence[str] | None) -> str:
    """First line of a prompt for entities, or for both where ``relation_types`` is given."""
    line = f"Extract {_listed(entity_types)} entities"
    if relation_types:
        line += f" and {_listed(relation_types)} relations"
    return line + "."


def make_prompt(text: str, entity_types: Sequence[str], relation_types: Sequence[str] | None) -> str:
    """Prompt for the task kinds ``entities`` (``relation_types`` None) and ``both``.

    Its last line says what comes: one word nearer to the answer, a small model tells the two kinds of site apart.
    """
    asked = "Entities and relations" if relation_types else "Entities"
    return f"{instruction(entity_types, relation_types)}\nText: {flat(text)}\n{asked}:\n"


def make_relation_prompt(text: str, entities: Sequence[Entity], relation_types: Sequence[str]) -> str:
    """Prompt for the task kind ``relations``: the mentions are given, the links between them are asked for."""
    given = "; ".join(entity_line(e) for e in entities)
    return f"Extract {_listed(relation_types)} relations.\nText: {flat(text)}\nEntities: {given}\nRelations:\n"


def make_answer(entities: Sequence[Entity], relations: Sequence[Relation], *, typed_relations: bool = True) -> str:
    """Answer text: entity lines in the order of the text, then relation lines; ``none`` where there is nothing.

    ``relations`` may name entities only that stand in ``entities``.
    """
    lines = [entity_line(e) for e in entities]
    lines += relation_lines(entities, relations, typed_relations=typed_relations)
    return "\n".join(lines) if lines else NONE


def entity_line(entity: Entity) -> str:
    """``mention | Type``."""
    return f"{flat(entity.text).strip()}{BAR}{entity.type}"


def relation_lines(entities: Sequence[Entity], relations: Sequence[Relation], *, typed_relations: bool) -> list[str]:
    """``head -> tail`` or ``head -> tail | type``, in the order of the heads, then the tails, in the text."""
    by_id = {e.id: e for e in entities}
    ordered = sorted(relations, key=lambda r: (by_id[r.head].start, by_id[r.tail].start, r.type))
    lines = []
    for r in ordered:
        line = f"{flat(by_id[r.head].text).strip()}{ARROW}{flat(by_id[r.tail].text).strip()}"
        lines.append(line + BAR + r.type if typed_relations else line)
    return lines


def make_examples(
    documents: Iterable[Document],
    task: TaskSpec,
    site_entity_types: Sequence[str],
    site_relation_types: Sequence[str] | None,
) -> list[Example]:
    """Examples of a site's documents for the study's task. See ``build_examples`` for the counts beside them."""
    return build_examples(documents, task, site_entity_types, site_relation_types)[0]


def build_examples(
    documents: Iterable[Document],
    task: TaskSpec,
    site_entity_types: Sequence[str],
    site_relation_types: Sequence[str] | None,
) -> tuple[list[Example], ExampleCounts]:
    """Examples in document order, and what was left out on the way.

    Args:
        documents: the site's notes.
        task: the study's task: kind, the common labels, the window.
        site_entity_types: what this site annotates, a subset of ``task.entity_types``.
        site_relation_types: a subset of ``task.relation_types``; None or empty where the site annotates none.

    Raises:
        ConfigError: a label that the study does not have, a ``relations`` task at a site without relation labels, or
            a relation type whose links all end at mentions that are not asked for.
    """
    documents = list(documents)
    entity_types = _subset("entity", site_entity_types, task.entity_types)
    relation_types = _subset("relation", site_relation_types or (), task.relation_types)
    if task.kind == "entities":
        relation_types = ()
    if task.kind == "relations" and not relation_types:
        raise ConfigError(
            "the task kind is 'relations', but this site annotates none of the study's relation types; "
            "use the kind 'both', in which such a site trains on entities only"
        )
    _require_ends(documents, entity_types, relation_types)
    windows, window_counts = make_all_windows(documents, task.window)
    typed = len(task.relation_types) > 1
    examples: list[Example] = []
    kept_entities = kept_relations = without_pair = 0
    for window in windows:
        entities, relations = _of_types(window, entity_types, relation_types)
        kept_entities += len(entities)
        kept_relations += len(relations or ())
        if task.kind == "relations":
            if relations is None or len(entities) < 2:
                without_pair += 1
                continue
            prompt = make_relation_prompt(window.text, entities, relation_types)
            answer = "\n".join(relation_lines(entities, relations, typed_relations=typed)) or NONE
        else:
            prompt = make_prompt(window.text, entity_types, relation_types if relations is not None else None)
            answer = make_answer(entities, relations or (), typed_relations=typed)
        examples.append(_example(window, entities, relations, prompt=prompt, answer=answer))
    counts = ExampleCounts(
        windows=window_counts,
        examples=len(examples),
        entities=kept_entities,
        relations=kept_relations,
        entities_of_other_types=window_counts.entities - kept_entities,
        relations_of_other_types=window_counts.relations - kept_relations,
        windows_without_a_pair=without_pair,
    )
    return examples, counts


def _example(
    window: Window,
    entities: tuple[Entity, ...],
    relations: tuple[Relation, ...] | None,
    *,
    prompt: str,
    answer: str,
) -> Example:
    return Example(
        example_id=f"{window.document_id}#{window.index}",
        document_id=window.document_id,
        patient_id=window.patient_id,
        text=window.text,
        offset=window.offset,
        entities=entities,
        relations=relations,
        prompt=prompt,
        answer=answer,
    )


def _of_types(
    window: Window, entity_types: Sequence[str], relation_types: Sequence[str]
) -> tuple[tuple[Entity, ...], tuple[Relation, ...] | None]:
    entities = tuple(e for e in window.entities if e.type in entity_types)
    if window.relations is None or not relation_types:
        return entities, None
    ids = {e.id for e in entities}
    kept = (r for r in window.relations if r.type in relation_types and r.head in ids and r.tail in ids)
    return entities, tuple(kept)


def _require_ends(documents: Sequence[Document], entity_types: Sequence[str], relation_types: Sequence[str]) -> None:
    """A link can be written between mentions of asked-for types only. Where that leaves none of a relation's links,
    every answer would teach that the notes have no such relation.
    """
    written, lost = set(), dict[str, set[str]]()
    for document in documents:
        types = {e.id: e.type for e in document.entities}
        for r in document.relations or ():
            others = {types[r.head], types[r.tail]} - set(entity_types)
            if others:
                lost.setdefault(r.type, set()).update(others)
            else:
                written.add(r.type)
    for name in relation_types:
        if name in lost and name not in written:
            raise ConfigError(
                f"every {name} relation of these notes has an end of a type that is not asked for "
                f"({', '.join(sorted(lost[name]))}): name it in entity_types, or leave {name} out of relation_types"
            )


def _subset(what: str, site: Sequence[str], study: Sequence[str]) -> tuple[str, ...]:
    """The site's labels in the study's order, so that equal label sets give equal prompts."""
    unknown = sorted(set(site) - set(study))
    if unknown:
        raise ConfigError(
            f"the site annotates {what} types that the study does not have: {', '.join(unknown)}; "
            f"the study has: {', '.join(study) or 'none'}. Map them with a label map or add them to the plan"
        )
    if what == "entity" and not site:
        raise ConfigError("the site annotates no entity type; name at least one of " + ", ".join(study))
    return tuple(t for t in study if t in site)


def _listed(names: Sequence[str]) -> str:
    if len(names) < 3:
        return " and ".join(names)
    return ", ".join(names[:-1]) + " and " + names[-1]
