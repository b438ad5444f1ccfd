"""From an answer to a turn: nothing private is heard, no sentence is cut, nothing unbounded is stored."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

import topics
from arena.contestants import SpeakFailed
from arena.speech import hear, presentable, sentence_ends, split_reasoning, within
from runs.records import Call, Debate, Match, Slot, Speech, Turn

SLOT = Slot(turn=1, side="for", stage="opening", words=12, instruction="")
MATCH = Match(
    debate_id="d", match=0, topic_id="t", for_contestant="a", against_contestant="b", opener="for", replicate=0, seed=1
)
DEBATE = Debate(match=MATCH, topic=topics.load("all")[0], slots=(SLOT,))
CALL = Call(
    call_id="c",
    debate_id="d",
    role="speak",
    turn=1,
    endpoint="simulated",
    model="a",
    latency_s=0.0,
    finish_reason="stop",
    started_at=datetime.now(UTC),
)


def heard(answer: str, reasoning: str | None = None) -> Turn:
    return hear(Speech(answer=answer, reasoning=reasoning, call=CALL), DEBATE, SLOT)


@pytest.mark.parametrize(
    ("answer", "visible", "private"),
    [
        ("Plain.", "Plain.", ""),
        ("<think>a</think>Say.", "Say.", "a"),
        ("One. <THINKING >a</thinking> Two.", "One.  Two.", "a"),
        ("<think>a<think>b</think>c</think>Say.", "Say.", "a\nb\nc"),
        ("Say. <think>never closed", "Say.", "never closed"),
        ("the prompt opened the tag</think>Say.", "Say.", "the prompt opened the tag"),
        ("<think>all of it</think>", "", "all of it"),
        ("1 < 2 and <b>bold</b>.", "1 < 2 and <b>bold</b>.", ""),
        ("[THINK]a[/THINK]Say.", "Say.", "a"),
        ("Say. <think", "Say.", ""),
        ("Say. <thinking about", "Say.", ""),
        ("A <think-tank> said so.", "A <think-tank> said so.", ""),
    ],
)
def test_reasoning_is_split_off(answer: str, visible: str, private: str) -> None:
    said, kept = split_reasoning(answer)
    assert (" ".join(said.split()), kept) == (" ".join(visible.split()), private)


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<Thinking>", "</thinking>", "<reasoning a='b'>", "</reasoning>", "word "]),
    max_size=12,
)


@given(PIECES)
def test_no_tag_and_nothing_between_tags_is_visible(pieces: list[str]) -> None:
    marked = [piece if piece.startswith("<") else f"w{i} " for i, piece in enumerate(pieces)]
    visible, private = split_reasoning("".join(marked))
    assert "think" not in visible.lower() and "reasoning" not in visible.lower()
    depth = 0
    for piece in marked:
        if piece.startswith("<"):
            depth = max(0, depth + (-1 if piece.startswith("</") else 1))
        elif depth:
            assert piece.strip() not in visible.split()
    words = {piece.strip() for piece in marked if not piece.startswith("<")}
    assert words == set(visible.split()) | set(private.split())  # and nothing is lost


def test_private_fields_are_kept_apart() -> None:
    turn = heard("<think>b</think>A word.", reasoning="a")
    assert (turn.text, turn.reasoning) == ("A word.", "a\n\nb")


@pytest.mark.parametrize("answer", ["", "  \n", "<think>only thoughts", "\x00\x1b"])
def test_nothing_visible_is_a_failed_attempt(answer: str) -> None:
    with pytest.raises(SpeakFailed) as failure:
        heard(answer)
    assert failure.value.kind == "empty"


def test_a_budget_ends_at_a_sentence_end() -> None:
    turn = heard("One two three four. Five six seven eight! Nine ten eleven twelve? Thirteen fourteen.")
    assert (turn.text, turn.words, turn.trimmed) == (
        "One two three four. Five six seven eight! Nine ten eleven twelve?",
        12,
        True,
    )
    turn = heard("One two three four. Five six.")
    assert (turn.words, turn.trimmed) == (6, False)


def test_a_first_sentence_over_the_budget_is_kept_whole() -> None:
    long = "word " * 19 + "end."
    assert heard(long).text == long and not heard(long).trimmed
    assert heard(long + " Another one.").text == long
    assert heard("no full stop " * 6).words == 18


def test_a_megabyte_of_one_letter_is_a_failure() -> None:
    for answer in ("A" * 2**20, "a " * 2**19):
        with pytest.raises(SpeakFailed) as failure:
            heard(answer)
        assert failure.value.kind == "length"
    assert heard("Short. " + "A" * 2**20).text == "Short."


def test_a_cut_is_no_sentence_end() -> None:
    text = "x" * 9_999 + ". " + "Y" * 50
    assert within("x" * 10_000 + ".5 more words " * 300, 250) == ("", 0)
    assert within(text + " z" * 400, 250)[0] == "x" * 9_999 + "."


@pytest.mark.parametrize("unit", [".", ".…", '." ', "a. ", "!)", ".)", "\n ", ".\n"])
def test_looking_for_sentence_ends_takes_linear_time(unit: str) -> None:
    sentence_ends(unit * 100_000 + "a")  # quadratic, it would take minutes


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith of the U.S. Senate said so, e.g. in May.",
        "It rose by 3.5 points vs. 2.1 before.",
        "See www.example.org for more.",
        'She said "no!" and left.',
        "Wait... what happened there?",
        "The Council adopted Resolution No. 242 in Nov. 1967.",
        "Sec. 230 and Art. 5 apply to Ph.D. Students, says Lt. Col. Smith on Mt. Everest.",
        "It began on Jan. 6 at 9 a.m. Eastern time.",
    ],
)
def test_what_is_no_sentence_end(text: str) -> None:
    assert sentence_ends(text) == [len(text)]


def test_sentence_ends() -> None:
    text = "First. “Second!” (Third?) 4 is fourth.\n\n- fifth without a stop\n\nSixth…"
    parts = [text[a:b].strip() for a, b in zip([0, *sentence_ends(text)], sentence_ends(text), strict=False)]
    assert parts == ["First.", "“Second!”", "(Third?)", "4 is fourth.", "- fifth without a stop", "Sixth…"]


SENTENCES = st.lists(st.integers(1, 9).map(lambda n: "Word" + " word" * (n - 1) + "."), min_size=1, max_size=12)


@given(SENTENCES, st.integers(1, 30))
def test_what_is_kept_is_whole_sentences_and_as_many_as_fit(sentences: list[str], budget: int) -> None:
    kept, words = within(" ".join(sentences), budget)
    assert words == len(kept.split())
    count = next(n for n in range(len(sentences), 0, -1) if " ".join(sentences[:n]) == kept)
    assert words <= budget or count == 1
    if count < len(sentences):
        assert len(" ".join(sentences[: count + 1]).split()) > budget


def test_what_cannot_be_stored_or_shown_is_dropped() -> None:
    assert presentable(" a\x00b\x1b[31m\u202ec\ud800\r\nd\te ") == "ab[31mc\nd\te"
    assert presentable("e\u0301") == "é"
    assert presentable("hid\U000e0041den\u2066 text") == "hidden text"
    assert presentable("one\u200btwo\u2060three") == "one two three"  # a budget counts what a reader would
    assert presentable("क्\u200dष") == "क्\u200dष"
