"""The tables of studies on the pages of results are what their records say, to the letter."""

import re
from pathlib import Path

import pytest
from toy_studies import written_record

from dearkd.report.study_tables import filled_blocks

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "scripts" / "results"
BLOCK = "# Results\n\n<!-- sweep {} -->\n{}<!-- end -->\nMore.\n"


@pytest.mark.parametrize("page", ["RESULTS.md", *sorted(PAGES.glob("[A-Z]*.md"))])
def test_every_table_of_results_is_what_its_record_says(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert filled_blocks(text, ROOT) == text, "python scripts/results_tables.py"
    marks = re.findall(r"<!-- (sweep \S+|end) -->", text)
    assert [mark == "end" for mark in marks] == [False, True] * (len(marks) // 2)


def test_every_record_is_of_a_published_study():
    for record in (ROOT / "scripts" / "results" / "studies").glob("*.json"):
        assert (ROOT / "configs" / "studies" / f"{record.stem}.yaml").is_file(), record


def test_a_number_that_was_typed_does_not_stand(tmp_path):
    name = written_record(tmp_path).name
    filled = filled_blocks(BLOCK.format(name, "| typed |\n"), tmp_path)
    assert "| typed |" not in filled
    assert filled.startswith("# Results\n\n<!-- sweep ")
    assert filled.endswith("<!-- end -->\nMore.\n")
    assert filled_blocks(filled, tmp_path) == filled
    number = re.search(r"\d+\.\d\d", filled)[0]
    assert filled_blocks(filled.replace(number, "99.99", 1), tmp_path) == filled


def test_a_record_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        filled_blocks(BLOCK.format("nowhere.json", ""), tmp_path)
