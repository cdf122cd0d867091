from __future__ import annotations

from introspect.core.errors import first_line, one_line


def test_a_message_becomes_one_safe_line() -> None:
    assert one_line("a\n\tb\x1b[31m\x00c") == "a b [31m c"
    assert one_line(ValueError("two\nlines")) == "two lines"
    assert one_line("x" * 10_000, 300) == "x" * 299 + "…"
    assert one_line("x" * 300, 300) == "x" * 300
    assert len(one_line("x" * 10_000)) == 10_000
    assert "0123456789" not in one_line("Incorrect key sk-abcdef0123456789abcdef")


def test_the_first_line_of_an_error_is_never_empty() -> None:
    assert first_line(ValueError("\n  no such weight \nmore")) == "no such weight"
    assert first_line(ValueError(" \n")) == "ValueError"
    assert first_line(EOFError()) == "EOFError"
