"""A study's record as it is read back: whole, or refused in one line."""

import json
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import pytest
from commands import refused
from toy_studies import entry, written_record, written_study

from dearkd.errors import UserError
from dearkd.run_folder.lock import one_at_a_time
from dearkd.run_folder.record import Record, Study, key_of, read_record


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
        lambda content: [values.clear() for values in content["runs"][0]["curve"].values()],
        *(broken("study", key) for key in ("name", "arms", "seeds", "fractions", "compare")),
        *(broken("run", key) for key in ("arm", "seed", "hash", "settings", "summary", "curve")),
        lambda content: content.update(study=3),
        lambda content: content.update(runs=3),
        lambda content: content["study"].update(compare=["taught"]),
        lambda content: content["study"].update(seeds=0),
        lambda content: content["runs"].append(None),
        lambda content: content["runs"][0].update(summary=3),
        lambda content: content["runs"].append(content["runs"][0]),
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


def test_two_commands_of_one_record_keep_each_others_runs(tmp_path):
    study = Study("a", ("labels", "taught"), (0, 1), (None,), {"taught": ("labels",)})
    path = tmp_path / "a.json"
    first, second = Record(path, study), Record(path, study)
    first.save(entry("labels", 0, 50.0))
    second.save(entry("taught", 1, 60.0))
    test = {"top1": 49.0, "heads": {"logits": 49.0}, "images": 10, "data": "photos"}
    first.save(entry("labels", 0, 50.0) | {"test": test})
    second.save(entry("labels", 0, 50.0))  # trained in another folder
    first.save()
    kept = {key_of(e): e.get("test") for e in read_record(path).entries}
    assert kept == {("taught", None, 1): None, ("labels", None, 0): test}
    other = Record(path, replace(study, name="b"))
    with pytest.raises(UserError, match="is of study a, not b; name another file by --record"):
        other.save(entry("labels", 1, 50.0))


def test_a_record_is_written_while_nobody_else_writes_it(tmp_path):
    path = written_record(tmp_path)
    record = read_record(path)
    with ThreadPoolExecutor(1) as pool:
        with one_at_a_time(path):
            waiting = pool.submit(record.save, entry("taught", 1, 60.0))
            assert wait([waiting], timeout=0.2).not_done
        waiting.result(10)
    assert read_record(path).find("taught", None, 1) == entry("taught", 1, 60.0)
