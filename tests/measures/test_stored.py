"""What the file of a set keeps when a further measure is taken: all that was not taken anew."""

import json

import pytest

from dearkd.measures.stored import is_result, with_stored

HOW = {"limit": None, "seed": 0, "commit": "new"}
LPIPS = dict.fromkeys(
    ("within_class", "overall", "within_class_standard_error", "overall_standard_error"), 0.5
)
NEAR = {"network": "cnn", "coverage": 1.0}
OLD = {
    "data": "set",
    "images": 8,
    **{"lpips": LPIPS, "nearness": NEAR, "probe_top1": 80.0, "probe": {"seed": 3}},
    "reference": {"data": "photos", "images": 9, "lpips": LPIPS},
    **{"limit": 4, "seed": 7, "unreadable": {}, "commit": "old"},
}
"""A file of a version in which a measure did not say itself what it was taken with."""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "diversity.json").write_text(json.dumps(OLD))
    return tmp_path / "diversity.json"


def test_each_measure_stays_with_what_it_was_taken_with(file):
    judged = {"network": "cnn", "top1": 90.0, **HOW}
    found = with_stored({"data": "set", "images": 20, "verifier": judged, **HOW}, file)
    old = {"limit": 4, "seed": 7, "commit": "old"}
    assert found["verifier"] == judged
    assert found["lpips"] == LPIPS | old
    assert found["nearness"] == NEAR | old
    assert found["probe"] == {"seed": 3}
    assert found["reference"] == OLD["reference"] | {"lpips": LPIPS | old}
    assert (found["images"], found["commit"]) == (20, "new")
    file.write_text(json.dumps(found))
    assert with_stored({"data": "set", "lpips": LPIPS | HOW}, file)["lpips"] == LPIPS | HOW
    assert with_stored({"data": "set"}, file)["lpips"] == LPIPS | old


def test_measures_of_a_reference_stay_while_it_is_the_same(file):
    distance = {"features": LPIPS | HOW}
    same = with_stored({"reference": {"data": "photos", **distance}}, file)["reference"]
    assert set(same) == {"data", "images", "lpips", "features"}
    other = {"data": "drawings", **distance}
    assert with_stored({"reference": other}, file)["reference"] == other
    by_a_probe = {"data": "drawings", "images": 5}  # its images were not measured
    kept = with_stored({"probe_top1": 70.0, "reference": by_a_probe}, file)
    assert kept["probe_top1"] == 70.0
    assert (kept["reference"]["data"], kept["reference"]["images"]) == ("photos", 9)


@pytest.mark.parametrize("content", ["", "[]", '{"lpips": {"within_class": "far"}}'])
def test_a_file_of_another_shape_is_replaced(file, content):
    file.write_text(content)
    assert with_stored({"data": "set"}, file) == {"data": "set"}


def test_a_result_is_told_from_other_files(file, tmp_path):
    assert is_result(file)
    (tmp_path / "other.json").write_text('{"data": "set", "images": 8}')
    assert not any(map(is_result, (tmp_path / "other.json", tmp_path / "nowhere", tmp_path)))
