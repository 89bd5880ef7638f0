"""What user code prints, line by line and bounded."""

import logging
import sys
import traceback
from contextlib import redirect_stdout

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edif.executor.output import OutputRelay

NOTICE = "[the rest of the output was cut: a job may print {} characters]"
LINES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n"), max_size=30)
PIECE = 4096


def relayed(*writes: str, limit: int = 10**6) -> list[str]:
    """What is sent when these texts are written."""
    sent: list[str] = []
    with OutputRelay(sent.append, limit):
        for text in writes:
            assert sys.stdout.write(text) == len(text)
    return sent


# -- lines ---------------------------------------------------------------------------------------------
def test_printed_line_is_sent_at_once_and_without_its_newline() -> None:
    sent: list[str] = []
    with OutputRelay(sent.append, 1000):
        print("one")
        assert sent == ["one"]
        print("two", 2, sep="-")
        assert sent == ["one", "two-2"]


def test_rest_without_newline_is_sent_at_the_end() -> None:
    sent: list[str] = []
    with OutputRelay(sent.append, 1000):
        print("a", end="")
        print("b", end="")
        assert sent == []
    assert sent == ["ab"]


def test_lines_written_together_are_sent_together() -> None:
    assert relayed("a\nb\n\nc") == ["a\nb\n", "c"]


def test_nothing_printed_sends_nothing() -> None:
    assert relayed() == []
    assert relayed("", "") == []


def test_both_streams_of_user_code_are_relayed_in_order() -> None:
    sent: list[str] = []
    with OutputRelay(sent.append, 1000):
        print("out")
        print("err", file=sys.stderr)
        print("out again")
    assert sent == ["out", "err", "out again"]


@given(st.lists(st.tuples(LINES, st.sampled_from(["", "\n", "\n\n"])), max_size=40))
def test_no_character_is_lost_or_moved(writes: list[tuple[str, str]]) -> None:
    texts = [line + end for line, end in writes]
    sent = relayed(*texts)
    assert "".join(sent).replace("\n", "") == "".join(texts).replace("\n", "")
    assert all(sent), "no empty piece is sent"


@given(st.lists(LINES.filter(bool), min_size=1, max_size=150))
def test_whole_lines_arrive_as_lines(lines: list[str]) -> None:
    assert "\n".join(relayed(*(f"{line}\n" for line in lines))).split("\n") == lines


def test_many_lines_are_gathered_and_none_is_lost() -> None:
    """A program that prints without end must not cost a message for every line."""
    lines = [f"line {number}" for number in range(5000)]
    sent = relayed(*(f"{line}\n" for line in lines))
    assert "".join(sent).replace("\n", "") == "".join(lines)
    assert len(sent) < 300


def test_gathered_lines_are_not_torn() -> None:
    lines = [f"line {number}" for number in range(5000)]
    assert "\n".join(relayed(*(f"{line}\n" for line in lines))).split("\n") == lines


# -- sizes ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("unit", ["x", "é", "\U0001f600"])
def test_long_line_is_sent_in_pieces(unit: str) -> None:
    sent = relayed(unit * 10_000)
    assert "".join(sent) == unit * 10_000
    assert max(len(piece) for piece in sent) == PIECE


def test_line_without_end_does_not_wait_for_it() -> None:
    sent: list[str] = []
    with OutputRelay(sent.append, 10**6):
        for _ in range(10):
            print("x" * 1000, end="")
        assert sum(map(len, sent)) >= PIECE


@pytest.mark.parametrize("limit", [0, 1, 10, PIECE, PIECE + 1, 10_000])
@pytest.mark.parametrize("step", [1, 7, 5000])
def test_flood_is_cut_at_the_limit_with_one_notice(limit: int, step: int) -> None:
    sent = relayed(*["x" * step] * (20_000 // step + 1), limit=limit)
    assert sent[-1] == NOTICE.format(limit)
    assert "".join(sent[:-1]) == "x" * limit


def test_output_of_exactly_the_limit_is_not_cut() -> None:
    assert relayed("x" * 100, limit=100) == ["x" * 100]
    assert relayed("x" * 101, limit=100) == ["x" * 100, NOTICE.format(100)]


def test_after_the_notice_nothing_more_is_sent() -> None:
    sent: list[str] = []
    with OutputRelay(sent.append, 10):
        print("x" * 50)
        before = list(sent)
        for _ in range(100):
            print("more")
            print("more", end="")
    assert sent == before
    assert sent.count(NOTICE.format(10)) == 1


@given(st.lists(LINES | LINES.map(lambda line: line + "\n"), max_size=60), st.integers(0, 300))
def test_never_more_characters_than_the_limit_and_never_more_than_one_notice(
    texts: list[str], limit: int
) -> None:
    sent = relayed(*texts, limit=limit)
    notices = [piece for piece in sent if piece == NOTICE.format(limit)]
    assert len(notices) <= 1
    passed = [piece for piece in sent if piece != NOTICE.format(limit)]
    assert sum(map(len, passed)) <= limit
    assert "".join(texts).replace("\n", "").startswith("".join(passed).replace("\n", ""))


# -- what programs do with their streams ---------------------------------------------------------------
def test_streams_come_back_when_the_job_fails() -> None:
    before = (sys.stdout, sys.stderr)
    sent: list[str] = []

    def user_code() -> None:
        print("on the way", end="")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), OutputRelay(sent.append, 1000):
        user_code()
    assert (sys.stdout, sys.stderr) == before
    assert sent == ["on the way"]


def test_streams_come_back_even_if_user_code_replaced_them() -> None:
    before = (sys.stdout, sys.stderr)
    with OutputRelay(lambda _: None, 1000):
        sys.stdout = None  # type: ignore[assignment]
    assert (sys.stdout, sys.stderr) == before


def test_streams_look_like_streams_that_are_no_terminal() -> None:
    with OutputRelay(lambda _: None, 1000):
        for stream in (sys.stdout, sys.stderr):
            assert not stream.isatty()
            assert stream.writable()
            assert stream.encoding == "utf-8"
            stream.flush()


def test_relay_within_a_relay_takes_over_and_gives_back() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with OutputRelay(outer.append, 1000):
        print("before")
        with OutputRelay(inner.append, 1000):
            print("within")
        print("after")
    assert (outer, inner) == (["before", "after"], ["within"])


def test_logging_tracebacks_and_redirections_are_relayed() -> None:
    sent: list[str] = []
    with OutputRelay(sent.append, 10**5):
        handler = logging.StreamHandler()
        handler.emit(logging.LogRecord("x", logging.INFO, "x.py", 1, "from the logger", None, None))
        traceback.print_exception(KeyError("from a traceback"))
        with redirect_stdout(sys.stderr):
            print("redirected")
    text = "\n".join(sent)
    for said in ("from the logger", "from a traceback", "redirected"):
        assert said in text


@pytest.mark.parametrize("value", [None, 7, [1, [2, {"a": (3,)}]], {"x": {1, 2}}, "é\U0001f600\0\x1b[31m"])
def test_values_of_any_kind_are_printed_as_python_does(value: object) -> None:
    sent: list[str] = []
    with OutputRelay(sent.append, 1000):
        print(value)
    assert sent == [str(value)]


@pytest.mark.parametrize("value", [b"bytes", 7, None])
def test_writing_what_is_no_text_is_the_writers_fault(value: object) -> None:
    with OutputRelay(lambda _: None, 1000), pytest.raises(TypeError):
        sys.stdout.write(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["writelines", "closed", "errors", "fileno", "buffer"])
def test_relay_has_what_libraries_ask_of_a_stream(name: str) -> None:
    sent: list[str] = []
    with OutputRelay(sent.append, 1000):
        getattr(sys.stdout, name)
