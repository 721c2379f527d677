"""Errors for the user: a path that does not exist, and the one beside it that was meant."""

from pathlib import Path

import pytest

from dearkd.errors import MissingFileError, missing_file


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("phtos", "did you mean photos?"),
        ("photso/train", "did you mean photos/train?"),
        ("photos/trian", "did you mean photos/train?"),
        ("photso/val", "check the path"),
        ("pictures", "check the path"),
        ("cat.png/train", "check the path"),
        ("cta.png", "did you mean cat.png?"),
        ("photos.yml", "check the path"),  # a folder is no file
        ("set-3", "check the path"),  # another number is another thing
        ("photso/" + 300 * "x", "check the path"),
    ],
)
def test_a_misspelled_path_is_answered_by_the_one_beside_it(tmp_path, monkeypatch, typed, remedy):
    (tmp_path / "photos" / "train").mkdir(parents=True)
    (tmp_path / "set-2").mkdir()
    (tmp_path / "cat.png").touch()
    monkeypatch.chdir(tmp_path)
    error = missing_file(f"data {typed}", Path(typed))
    assert isinstance(error, MissingFileError)
    assert str(error) == f"data {typed} does not exist; {remedy}"


def test_a_path_with_nothing_beside_it_has_the_remedy_that_was_given(tmp_path):
    path = tmp_path / "one" / "two" / "three"
    assert str(missing_file("config", path, "name one")) == "config does not exist; name one"


def test_a_folder_in_the_place_of_a_file_is_there(tmp_path):
    assert str(missing_file("config", tmp_path)) == "config is no file; check the path"
