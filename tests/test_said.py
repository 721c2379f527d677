"""Numbers, names and commands as a person says them."""

import shlex

import pytest

from dearkd.said import command, counted, listed, number, seconds_text, size_text


def test_one_thing_is_singular_and_none_or_many_are_not():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert counted(1438, "image") == "1,438 images"
    assert counted(2, "class", "classes") == "2 classes"
    assert counted(1, "class", "classes") == "1 class"


def test_names_are_listed_with_an_and():
    assert [listed("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_a_shell_takes_a_command_apart_into_its_words():
    words = ["dearkd", "train", "my runs/it's $HOME/config.yaml", "--out", "NEW"]
    assert shlex.split(command(*words)) == words
    assert command("dearkd", "report", "runs/ce-0") == "dearkd report runs/ce-0"


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (3.2, "3 s"), (89, "89 s"), (2400, "40 min"), (9000, "2.5 h")]
)
def test_durations(seconds, text):
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, ""),
        (0, "0.0 KiB"),
        (1536, "1.5 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (2**29, "0.50 GiB"),
        (2**34, "16.00 GiB"),
    ],
)
def test_sizes(size, text):
    assert size_text(size) == text


def test_no_number_is_no_text():
    assert number(None, ".2f") == ""
    assert number(0.0, ".2f") == "0.00"
