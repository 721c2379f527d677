"""A study's record as it is read back: whole, or refused in one line."""

import json

import pytest
from commands import refused
from toy_studies import written_record, written_study

from dearkd.errors import UserError
from dearkd.run_folder.record import read_record


def test_a_record_is_read_as_it_was_written(tmp_path):
    path = written_record(tmp_path)
    text = path.read_text()
    record = read_record(path)
    record.write()
    assert path.read_text() == text
    assert len(record.of_study()) == 4


def broken(part, key):
    def change(content):
        place = content["study"] if part == "study" else content["runs"][1]
        del place[key]

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["runs"][0]["curve"]["images_per_second"].__setitem__(0, None),
        *(broken("study", key) for key in ("name", "arms", "seeds", "fractions", "compare")),
        *(broken("run", key) for key in ("arm", "seed", "hash", "settings", "summary", "curve")),
        lambda content: content.update(study=3),
        lambda content: content.update(runs=3),
        lambda content: content["study"].update(compare=["taught"]),
        lambda content: content["study"].update(seeds=0),
        lambda content: content["runs"].append(None),
        lambda content: content["runs"][0].update(summary=3),
    ],
)
def test_a_damaged_record_is_refused(change, tmp_path):
    path = written_record(tmp_path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"record .*a\.json is damaged \(.+\); restore it or"):
        read_record(path)


def test_the_report_says_what_is_wrong_with_a_record(tmp_path):
    path = written_record(tmp_path)
    path.write_text(path.read_text().replace('"curve"', '"curv"'))
    assert "a.json is damaged (run 1: curve is missing)" in refused("report", path)
    path.write_text("{}")
    assert "a.json is a file; pass the run folder it lies in, or a record" in refused(
        "report", path
    )


def test_a_folder_is_no_record(tmp_path):
    line = refused("sweep", written_study(tmp_path), "--record", tmp_path)
    assert f"record {tmp_path} is a folder; name a file by --record" in line
