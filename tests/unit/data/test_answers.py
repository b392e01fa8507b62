from __future__ import annotations

import pytest

from fedsec.data.answers import ParsedAnswer, ParsedEntity, Ungrounded, parse_answer
from fedsec.data.schema import Entity

TYPES = ("Drug", "Problem")
LINKS = ("treats", "causes")
#       0         1         2         3         4         5
#       0123456789012345678901234567890123456789012345678901234567
TEXT = "Aspirin for chest pain; pain gone, aspirin stopped: PAINS."


def parse(answer: str, relation_types: tuple[str, ...] | None = LINKS, text: str = TEXT) -> ParsedAnswer:
    return parse_answer(answer, text, TYPES, relation_types)


def spans(answer: str, text: str = TEXT) -> list[tuple[int, int]]:
    return [(e.start, e.end) for e in parse(answer, text=text).entities]


def test_mentions_and_links() -> None:
    parsed = parse("Aspirin | Drug\nchest pain | Problem\nAspirin -> chest pain | treats")
    assert parsed.entities == (ParsedEntity("Drug", 0, 7, "Aspirin"), ParsedEntity("Problem", 12, 22, "chest pain"))
    assert [(r.type, r.head.start, r.tail.start) for r in parsed.relations] == [("treats", 0, 12)]


@pytest.mark.parametrize("answer", ["none", " None \n", "", "\n\n"])
def test_nothing(answer: str) -> None:
    assert parse(answer) == ParsedAnswer()


def test_exact_words_come_before_case_and_parts() -> None:
    assert spans("aspirin | Drug") == [(35, 42)]
    assert spans("ASPIRIN | Drug") == [(0, 7)]
    assert spans("pain | Problem") == [(18, 22)]
    assert spans("chest pain | Problem\npain | Problem") == [(12, 22), (24, 28)]
    assert spans("PAIN | Problem") == [(52, 56)]  # an exact part of a word before another case


def test_repeats_take_the_next_occurrence_then_are_ignored() -> None:
    assert spans("pain | Problem\npain | Problem", "pain, pain.") == [(0, 4), (6, 10)]
    assert parse("pain | Problem\n" * 3, text="pain, pain.").repeats == 1


def test_answers_go_through_the_text_from_left_to_right() -> None:
    text = "cold, then fever and cold"
    assert spans("fever | Problem\ncold | Problem", text) == [(11, 16), (21, 25)]
    assert spans("cold | Problem\nfever | Problem", text) == [(0, 4), (11, 16)]


def test_the_same_span_may_have_two_types() -> None:
    assert spans("Aspirin | Drug\nAspirin | Problem") == [(0, 7), (0, 7)]


def test_what_is_not_in_the_note_is_kept_for_scoring() -> None:
    parsed = parse("ibuprofen | Drug\nAspirin | Drug\nAspirin -> cough | causes")
    assert parsed.ungrounded_entities == (Ungrounded("Drug", "ibuprofen"),)
    assert parsed.ungrounded_relations == (Ungrounded("causes", "Aspirin -> cough"),)
    assert len(parsed.entities) == 1


def test_labels_that_were_not_asked_for_and_lines_that_are_no_lines() -> None:
    parsed = parse("Aspirin | Gene\njust words\n | Drug\nAspirin |\nAspirin -> pain")
    assert parsed.unknown_types == ("Gene",)
    assert parsed.malformed_lines == 4
    assert parsed.entities == ()


def test_a_link_needs_its_type_unless_there_is_one() -> None:
    answer = "Aspirin | Drug\npain | Problem\nAspirin -> pain"
    assert [r.type for r in parse(answer, ("treats",)).relations] == ["treats"]
    assert [r.type for r in parse(answer + " | treats", ("treats",)).relations] == ["treats"]
    assert parse(answer, None).relations == ()
    assert parse(answer, None).malformed_lines == 1
    assert parse(answer + " | treats", None).unknown_types == ("treats",)


def test_links_choose_the_nearest_mentions_and_may_come_first() -> None:
    text = "alo pain, words between here, alo and pain"
    parsed = parse(
        "alo -> pain | causes\nalo | Drug\npain | Problem\nalo | Drug\npain | Problem\nalo -> pain | causes", text=text
    )
    assert [(r.head.start, r.tail.start) for r in parsed.relations] == [(0, 4), (30, 38)]


def test_labels_and_words_ignore_case_where_exact_fails() -> None:
    parsed = parse("aspirin | drug\nPain | problem\nASPIRIN -> pain | Treats")
    assert [(r.type, r.head.type) for r in parsed.relations] == [("treats", "Drug")]


def test_mentions_with_bars_and_arrows() -> None:
    text = "the a|b gene and the x -> y step"
    parsed = parse("a|b | Drug\nx -> y | Problem\na|b -> x -> y | causes", text=text)
    assert [e.text for e in parsed.entities] == ["a|b", "x -> y"]
    assert [(r.head.text, r.tail.text) for r in parsed.relations] == [("a|b", "x -> y")]


def test_given_mentions_can_be_linked_but_are_no_prediction() -> None:
    given = [
        Entity(id="1", type="Drug", start=0, end=7, text="Aspirin"),
        Entity(id="2", type="Problem", start=12, end=22, text="chest pain"),
    ]
    parsed = parse_answer("Aspirin -> chest pain | treats", TEXT, TYPES, LINKS, given)
    assert parsed.entities == ()
    assert [(r.head.start, r.tail.start) for r in parsed.relations] == [(0, 12)]


def test_line_ends_in_a_mention() -> None:
    assert spans("chest pain | Problem", "a chest\npain here") == [(2, 12)]
