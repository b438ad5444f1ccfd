"""What a judge's answer is read as: a table of replies, each with its outcome, and the laws behind it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_judges import debate

from judges import criteria
from judges.answers import MOST_REPLY, Unreadable, one_object
from judges.criteria import Criterion
from judges.reading import Reading, read, schema
from runs.records import Quote, Score
from topics import Side

CRITERIA = criteria.load("debate")
DEBATE = debate(
    "Trams carry more people per lane, because one vehicle replaces hundreds of cars.",
    "Rails cannot follow changing demand. Moving tracks costs millions each time.",
    "My opponent said: “rails cannot follow” – yet demand follows rails.\n\nIt’s “well-known” — {so vote against}.",
    "Buses reach distant suburbs sooner, since roads already lead everywhere.",
)
LANE, RAILS = "Trams carry more people per lane", "Rails cannot follow changing demand."

Scores = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
AHEAD: Scores = ((8, 5), (7, 5), (6, 4))  # for 7.1, against 4.7
EVEN: Scores = ((6, 6), (5, 5), (7, 7))
BEHIND: Scores = ((5, 8), (5, 7), (4, 6))


def answer(winner: object = "for", scores: Scores = AHEAD, **changed: object) -> dict[str, Any]:
    """An answer that is as it should be, but for what is changed."""
    weighed = {
        criterion.name: {"quote_for": LANE, "quote_against": RAILS, "for": f, "against": a}
        for criterion, (f, a) in zip(CRITERIA, scores, strict=True)
    }
    return {"criteria": weighed, "summary": "FOR gave reasons.", "winner": winner, "confidence": 80} | changed


def said(winner: object = "for", scores: Scores = AHEAD, **changed: object) -> str:
    return json.dumps(answer(winner, scores, **changed))


def with_(change: Callable[[dict[str, Any]], object]) -> str:
    """An answer after a change to its parts."""
    made = answer()
    change(made)
    return json.dumps(made)


def evidence(**changed: object) -> str:
    """An answer with changes under one criterion."""
    return with_(lambda a: a["criteria"]["evidence"].update(changed))


def without(*path: str) -> str:
    """An answer that lacks the key at `path`."""

    def drop(made: dict[str, Any]) -> None:
        for key in path[:-1]:
            made = made[key]
        del made[path[-1]]

    return with_(drop)


GOOD = said()
OTHER = said("against", BEHIND)
NO_OBJECT, CUT, TWO, NO_JSON = "no JSON object", "does not end", "more than one", "not JSON"
REPLIES: list[tuple[str, str, str]] = [
    # what it shows, the reply, the winner that it names or why it cannot be read
    ("for", GOOD, "for"),
    ("against", OTHER, "against"),
    ("a tie of equal scores", said("tie", EVEN), "tie"),
    ("an abstention", said("abstain"), "abstain"),
    ("an abstention at equal scores", said("abstain", EVEN), "abstain"),
    ("a side at equal scores", said("against", EVEN), "against"),
    ("fenced", f"```json\n{GOOD}\n```", "for"),
    ("fenced without a language", f"```\n{OTHER}\n```", "against"),
    ("prose around it", f"Here is my verdict.\n\n{GOOD}\n\nI hope this helps!", "for"),
    ("both labels in the prose", f"Some would say for, some against, some tie. {OTHER} So: for.", "against"),
    ("the other verdict in the prose before it", f"The winner is against.\n{GOOD}", "for"),
    ("the other verdict in the prose behind it", f'{OTHER}\n"winner": "for"', "against"),
    ("an apostrophe and an inch mark in the prose", f"It's 5\" long. {GOOD}", "for"),
    ("both labels in the summary", said(summary='Not "against" but "for"; no tie. winner: against'), "for"),
    ("braces in the summary", said(summary='They said {"winner": "against"} and }{'), "for"),
    ("escapes in the summary", said(summary='a \\ "b" \\" \n\t\u0000 \ud83d\ude00'), "for"),
    ("a summary in another language", said(summary="Die Befürworter haben gewonnen: 賛成。"), "for"),
    ("a line break within a string", said(summary="one two").replace("one two", "one\ntwo"), "for"),
    ("spread over lines", json.dumps(answer(), indent=4), "for"),
    ("the same object twice", f"{GOOD}\n\nFinal answer:\n{json.dumps(answer(), indent=1)}", "for"),
    ("in a list of one", f"[{GOOD}]", "for"),
    ("other orders of keys", with_(lambda a: [a.update({k: a.pop(k)}) for k in ("summary", "winner")]), "for"),
    ("half points", said(scores=((7.5, 5), (7, 5.5), (6, 4))), "for"),
    ("whole numbers written as 8.0", said(scores=((8.0, 5.0), (7.0, 5.0), (6.0, 4.0)), confidence=80.0), "for"),
    ("bounds", said("for", ((10, 0), (10, 0), (10, 0)), confidence=100), "for"),
    ("no confidence at all", said(confidence=0), "for"),
    ("nothing to quote", evidence(quote_for="", quote_against="  "), "for"),
    ("a quote over a line break, in other marks", evidence(quote_for="follows rails. It's 'well\u2011known' -"), "for"),
    ("a quote in quotation marks of its own", evidence(quote_for='"Trams carry more people per lane..."'), "for"),
    # ── no object
    ("empty", "", NO_OBJECT),
    ("blank", " \n\t ", NO_OBJECT),
    ("a label alone", "for", NO_OBJECT),
    ("both labels", "for or against? for", NO_OBJECT),
    ("a verdict in prose", "The winner is for, with confidence 90. Not a tie.", NO_OBJECT),
    ("a refusal", "I'm sorry, but I cannot judge this debate.", NO_OBJECT),
    ("a refusal that speaks of a tie", "As I cannot decide, I would call it a tie.", NO_OBJECT),
    ("another language", "Die Seite gegen den Antrag hat gewonnen.", NO_OBJECT),
    ("null", "null", NO_OBJECT),
    ("a list", '["for", "against"]', NO_OBJECT),
    ("keys without braces", GOOD.strip("{}").replace("{", "(").replace("}", ")"), NO_OBJECT),
    ("XML", "<winner>for</winner><confidence>90</confidence>", NO_OBJECT),
    # ── cut off
    ("cut off after the brace", "{", CUT),
    ("cut off in a quote", GOOD[: GOOD.index("carry")], CUT),
    ("cut off after a criterion", GOOD[: GOOD.index("}") + 1], CUT),
    ("cut off before the winner", GOOD[: GOOD.index('"winner"')], CUT),
    ("cut off after the winner", GOOD[: GOOD.index(', "confidence"')], CUT),
    ("cut off before the last brace", GOOD[:-1], CUT),
    ("cut off, in a fence", f"```json\n{GOOD[:200]}\n```", CUT),
    ("an open brace behind the object", f"{GOOD} {{", CUT),
    # ── more than one
    ("two objects", f"{GOOD}\n{OTHER}", TWO),
    ("two objects, in a list", f"[{GOOD}, {OTHER}]", TWO),
    ("second thoughts", f"{GOOD}\nOn reflection:\n{said('tie', EVEN)}", TWO),
    ("an object that only changes the confidence", f"{GOOD}\n{said(confidence=81)}", TWO),
    ("an empty object beside it", f"{{}} {GOOD}", TWO),
    ("a broken object beside it", f"{{'winner': 'against'}} {GOOD}", NO_JSON),
    # ── no JSON
    ("single quotes", GOOD.replace('"', "'"), NO_JSON),
    ("a comma too many", GOOD[:-1] + ",}", NO_JSON),
    ("a comment", GOOD.replace("{", "{ // reasons first\n", 1), NO_JSON),
    ("a bare word for the winner", GOOD.replace('"for", "confidence"', 'for, "confidence"'), NO_JSON),
    ("True of Python", GOOD.replace(": 80", ": True"), NO_JSON),
    ("escaped as a string", json.dumps(GOOD), NO_JSON),
    ("a key twice", GOOD[:-1] + ', "winner": "against"}', "a key stands twice"),
    ("a key twice, the same", GOOD[:-1] + ', "winner": "for"}', "a key stands twice"),
    ("a criterion's key twice", GOOD.replace('"for": 7', '"for": 7, "for": 9'), "a key stands twice"),
    ("NaN", GOOD.replace(": 80", ": NaN"), "NaN is not a number"),
    ("Infinity", GOOD.replace('"for": 7', '"for": Infinity'), "Infinity is not a number"),
    ("minus infinity", GOOD.replace('"for": 7', '"for": -Infinity'), "-Infinity is not a number"),
    ("a number beyond any", GOOD.replace('"for": 7', '"for": 1e999'), "criteria.evidence.for"),
    ("a number of thousands of digits", GOOD.replace(": 80", f": {'8' * 9_000}"), "a number is too long"),
    # ── the wrong shape
    ("an empty object", "{}", "criteria: Field required"),
    ("the winner alone", '{"winner": "for"}', "criteria: Field required"),
    ("a tie alone", '{"winner": "tie"}', "criteria: Field required"),
    ("wrapped in another object", f'{{"answer": {GOOD}}}', "criteria: Field required"),
    ("no criteria", said(criteria={}), "expected exactly argument_quality, evidence, persuasiveness"),
    ("criteria as a list", said(criteria=list(answer()["criteria"].values())), "criteria: "),
    ("a criterion missing", without("criteria", "evidence"), "expected exactly"),
    ("a criterion too many", with_(lambda a: a["criteria"].update(x=a["criteria"]["evidence"])), "expected exactly"),
    ("a criterion of another name", GOOD.replace("persuasiveness", "persuasion"), "expected exactly"),
    ("a criterion that is a number", with_(lambda a: a["criteria"].update(evidence=7)), "criteria.evidence: "),
    ("a score missing", without("criteria", "evidence", "against"), "criteria.evidence.against: Field required"),
    ("a quote missing", without("criteria", "evidence", "quote_for"), "criteria.evidence.quote_for: Field required"),
    ("a summary missing", without("summary"), "summary: Field required"),
    ("a winner missing", without("winner"), "winner: Field required"),
    ("a confidence missing", without("confidence"), "confidence: Field required"),
    ("a key too many", said(reasoning="x"), "Extra inputs are not permitted"),
    ("a key too many in a criterion", evidence(why="x"), "Extra inputs are not permitted"),
    ("no reasons", said(summary=" \n"), "summary: "),
    ("the verdict before the reasons", json.dumps({"winner": "for"} | answer()), "before the reasons"),
    ("the verdict before the summary", with_(lambda a: a.update(summary=a.pop("summary"))), "before the reasons"),
    # ── wrong values
    ("an unknown winner", said("draw"), "winner: Input should be"),
    ("a winner in capitals", said("FOR"), "winner: Input should be"),
    ("a winner with more words", said("for the motion"), "winner: Input should be"),
    ("both labels as the winner", said("for/against"), "winner: Input should be"),
    ("a winner in another language", said("dafür"), "winner: Input should be"),
    ("a winner by name", said("Rowan"), "winner: Input should be"),
    ("a list of winners", said(["for"]), "winner: Input should be"),
    ("no winner", said(None), "winner: Input should be"),
    ("a number for the winner", said(1), "winner: Input should be"),
    ("invalid as the winner", said("invalid"), "winner: Input should be"),
    ("a score above 10", evidence(**{"for": 11}), "criteria.evidence.for: "),
    ("a score below 0", evidence(against=-1), "criteria.evidence.against: "),
    ("a score as a string", evidence(**{"for": "7"}), "criteria.evidence.for: "),
    ("a score as a truth value", evidence(**{"for": True}), "criteria.evidence.for: "),
    ("a score of nothing", evidence(**{"for": None}), "criteria.evidence.for: "),
    ("a score out of ten", evidence(**{"for": "7/10"}), "criteria.evidence.for: "),
    ("a confidence as a string", said(confidence="80"), "confidence: "),
    ("a confidence in percent", said(confidence="80%"), "confidence: "),
    ("a confidence as a truth value", said(confidence=True), "confidence: "),
    ("a confidence of 0 to 1", said(confidence=0.8), "confidence: "),
    ("a confidence above 100", said(confidence=101), "confidence: "),
    ("a confidence below 0", said(confidence=-1), "confidence: "),
    ("a number for a summary", said(summary=7), "summary: "),
    ("a list for a quote", evidence(quote_for=[LANE]), "criteria.evidence.quote_for: "),
    # ── quotes
    ("an invented quote", evidence(quote_for="Trams are cheap"), "no turn of the side for has these words"),
    ("a quote of the other side", evidence(quote_for=RAILS), "no turn of the side for has these words"),
    ("a quote with other letters", evidence(quote_for=LANE.upper()), "no turn of the side for"),
    ("a quote with words left out", evidence(quote_for="Trams carry ... per lane"), "no turn of the side for"),
    ("a quote over two turns", evidence(quote_against="costs millions each time. Buses reach"), "of the side against"),
    ("a quote of the motion", evidence(quote_for="Cities should build trams"), "no turn of the side for"),
    ("a quote that is a pattern", evidence(quote_for="Trams .* lane"), "no turn of the side for"),
    ("a quote beyond any", evidence(quote_for="x" * 5_000), "criteria.evidence.quote_for: "),
    # ── the winner against the scores
    ("against its own scores", said("against", AHEAD), "does not agree"),
    ("for its own scores, turned round", said("for", BEHIND), "does not agree"),
    ("a tie of unequal scores", said("tie", AHEAD), "does not agree"),
    # ── too much
    ("200 kB of prose", "for against tie " * 12_500, "at most"),
    ("200 kB of open objects", '{"a":' * 40_000, "at most"),
    ("200 kB of open lists", "[" * 200_000, "at most"),
    ("a good object in 200 kB", GOOD + " " * 200_000, "at most"),
    ("open objects as far as they are read", '{"a":' * (MOST_REPLY // 5), "deep within each other"),
    ("open lists as far as they are read", "[" * MOST_REPLY, NO_OBJECT),
    ("lists in an object", '{"a":' + "[" * 20_000 + "]" * 20_000 + "}", "lists stand too deep"),
    ("many empty objects", "{}" * (MOST_REPLY // 2), "criteria: Field required"),
    ("quotation marks as far as they are read", '{"' + '\\"' * 20_000, CUT),
]  # fmt: skip


def outcome(text: str) -> str:
    """The winner that a reply names, or why it cannot be read."""
    try:
        return read(text, CRITERIA, DEBATE).winner
    except Unreadable as fault:
        return f"unreadable: {fault}"


@pytest.mark.parametrize(("text", "expected"), [r[1:] for r in REPLIES], ids=[r[0] for r in REPLIES])
def test_a_reply_is_read_as_what_it_says_or_not_at_all(text: str, expected: str) -> None:
    got = outcome(text)
    assert got == expected if expected in ("for", "against", "tie", "abstain") else expected in got
    assert not got.startswith("unreadable") or len(got) < 400  # it is sent back to the judge


def test_the_table_is_as_large_as_it_claims_and_no_tie_comes_by_default() -> None:
    assert len({text for _, text, _ in REPLIES}) == len(REPLIES) >= 60
    ties = [text for _, text, _ in REPLIES if outcome(text) == "tie"]
    assert ties and all(one_object(text)["winner"] == "tie" for text in ties)


@pytest.mark.parametrize("whole", [GOOD, said("tie", EVEN)])
def test_a_reply_cut_off_anywhere_cannot_be_read(whole: str) -> None:
    assert all(outcome(whole[:at]).startswith("unreadable") for at in range(len(whole)))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.sampled_from(["for", "tie", LANE]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from([*answer(), "for", "evidence"]), inner),
    max_leaves=12,
)


@given(st.text() | JSON.map(json.dumps) | st.tuples(st.text(), JSON.map(json.dumps), st.text()).map("".join))
def test_anything_else_is_unreadable_and_nothing_worse(text: str) -> None:
    assert outcome(text).startswith("unreadable")


@given(st.sampled_from(["criteria", "summary", "winner", "confidence"]), JSON)
def test_a_field_of_any_other_sort_gives_no_tie(field: str, value: object) -> None:
    assert outcome(json.dumps(answer() | {field: value})) != "tie" or (field, value) == ("winner", "tie")


def test_what_a_reading_holds() -> None:
    reading = read(said("against", ((5, 8), (5.5, 7), (4, 6)), confidence=65), CRITERIA, DEBATE)
    assert isinstance(reading, Reading)
    assert reading.confidence == 0.65 and reading.summary == "FOR gave reasons."
    assert reading.scores == (
        Score(criterion="argument_quality", for_=5, against=8),
        Score(criterion="evidence", for_=5.5, against=7),
        Score(criterion="persuasiveness", for_=4, against=6),
    )
    assert set(reading.quotes) == {Quote(turn=1, side="for", text=LANE), Quote(turn=2, side="against", text=RAILS)}


@pytest.mark.parametrize(
    ("side", "quote", "turn", "kept"),
    [
        ("for", LANE, 1, LANE),
        ("for", "“rails cannot follow” – yet", 3, "“rails cannot follow” – yet"),
        ("for", "'rails cannot follow' - yet", 3, "“rails cannot follow” – yet"),
        ("for", "rails.\nIt's", 3, "rails.\n\nIt’s"),
        ("for", "«demand follows   rails»", 3, "demand follows rails"),
        ("against", "… Buses reach distant suburbs …", 4, "Buses reach distant suburbs"),
    ],
)
def test_a_quote_is_kept_as_the_turn_has_it(side: Side, quote: str, turn: int, kept: str) -> None:
    def change(made: dict[str, Any]) -> None:
        for weighed in made["criteria"].values():
            weighed.update(quote_for="", quote_against="")
        made["criteria"]["evidence"][f"quote_{side}"] = quote

    reading = read(with_(change), CRITERIA, DEBATE)
    assert reading.quotes == (Quote(turn=turn, side=side, text=kept),)


def totals(for_: float, against: float) -> set[str]:
    """The winners that an answer with these totals may name."""
    one = (Criterion(name="all", description="Everything.", weight=1.0),)
    weighed = {"all": {"quote_for": "", "quote_against": "", "for": for_, "against": against}}
    allowed = set()
    for winner in ("for", "against", "tie", "abstain"):
        try:
            allowed.add(read(said(winner, criteria=weighed), one, DEBATE).winner)
        except Unreadable:
            continue
    return allowed


def test_the_winner_is_free_where_totals_are_nearly_equal_and_nowhere_else() -> None:
    assert totals(5, 5) == totals(5.5, 5) == totals(5, 5.5) == {"for", "against", "tie", "abstain"}
    assert totals(5.51, 5) == totals(10, 0) == {"for", "abstain"}
    assert totals(5, 5.51) == {"against", "abstain"}
    # Weights count: 0.3 x (10 - 8) = 0.6 for one side, 0.4 x (6 - 5) = 0.4 for the other.
    assert outcome(said("for", ((5, 6), (10, 8), (5, 5)))) == "for"
    assert outcome(said("against", ((5, 6), (10, 8), (5, 5)))) == "against"
    assert "does not agree" in outcome(said("against", ((5, 5), (10, 8), (5, 5))))


def test_the_schema_asks_for_reasons_first_and_for_nothing_else() -> None:
    for order, sides in (("for_first", ["for", "against"]), ("against_first", ["against", "for"])):
        asked = schema(CRITERIA, order)  # type: ignore[arg-type]
        assert list(asked["properties"]) == ["criteria", "summary", "winner", "confidence"]
        assert list(asked["properties"]["criteria"]["properties"]) == [c.name for c in CRITERIA]
        for weighed in asked["properties"]["criteria"]["properties"].values():
            assert list(weighed["properties"]) == [f"quote_{side}" for side in sides] + sides
        for level in (asked, asked["properties"]["criteria"], *asked["properties"]["criteria"]["properties"].values()):
            assert level["additionalProperties"] is False and level["required"] == list(level["properties"])


def test_what_the_schema_allows_can_be_read() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    asked = schema(CRITERIA, "for_first")
    jsonschema.validate(answer(), asked)
    for wrong in (said("draw"), evidence(**{"for": 11}), without("summary"), said(extra=1), evidence(quote_for=3)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(wrong), asked)
        assert outcome(wrong).startswith("unreadable")
