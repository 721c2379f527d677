"""What is read of a synthetic set on disk: whole, unfinished, damaged, or another program's."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from dearkd.data.datasets import open_data, open_evaluation
from dearkd.data.synthetic_set import (
    ClassTable,
    finished_sets,
    missing_images,
    read_set,
    read_sets,
    unsure_images,
)
from dearkd.errors import UserError
from synth.shards import shard_bytes

CLASSES = {"names": ["dog", "cat"], "indices": [7, 3], "total": 10}


def record(file, **more):
    return {"file": file, "target": 7, "group": 0, **more}


def write(root, manifest=None, settings=None, files=()):
    root.mkdir(exist_ok=True)
    for name, content in (("manifest.json", manifest), ("settings.json", settings)):
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (root / name).write_text(text)
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(root / file, "PNG")
    return root


def test_a_folder_of_images_is_no_synthetic_set(tmp_path):
    assert read_set(write(tmp_path / "a", files=["cat/0.png"])) is None
    assert read_set(tmp_path / "gone") is None
    assert missing_images("digits") is None


def test_a_finished_set_lists_its_images_and_those_that_are_gone(tmp_path):
    images = [record("dog/0.png"), record("cat/0.png"), record("cat/1.png")]
    config = {"flip_probability": 0.0, "image_format": "png"}
    manifest = {"classes": CLASSES, "config": config, "images": images}
    found = read_set(write(tmp_path / "set", manifest, files=["dog/0.png", "cat/0.png"]))
    assert found.finished
    assert found.mirrored is False
    assert found.damage is None
    assert found.classes() == ClassTable({"dog": 7, "cat": 3}, 10, None)
    assert [image.folder for image in found.images] == ["dog", "cat", "cat"]
    assert [image.record for image in found.missing] == [images[2]]
    train, _ = open_data(str(tmp_path / "set"))
    assert [image.name for image in found.images[1::-1]] == [train.name(n) for n in range(2)]
    assert "lacks 1 of the 3 images that its manifest lists, of class cat (1 of 2)" in (
        missing_images(str(tmp_path / "set"))
    )


@pytest.mark.parametrize(("share", "told"), [(0.56, True), (0.95, False), (None, False)])
def test_images_that_are_not_what_they_are_called_are_told_of(tmp_path, share, told):
    quality = {} if share is None else {"teacher": {"recognition": {"overall": share}}}
    root = write(tmp_path / "set", {"images": [], "quality": quality})
    line = unsure_images(str(root))
    assert (line is not None) == told
    if told:
        assert "recognises 56 % of the images" in line


def test_rows_of_a_parquet_file_are_gone_with_it(tmp_path):
    images = [record(f"dog/{n}.png", shard=f"data/train-{n // 2}.parquet") for n in range(3)]
    root = write(tmp_path / "set", {"images": images}, files=["data/train-0.parquet"])
    found = read_set(root)
    assert [image.name for image in found.images] == [
        f"row 0 of {root}/data/train-0.parquet",
        f"row 1 of {root}/data/train-0.parquet",
        f"row 0 of {root}/data/train-1.parquet",
    ]
    assert [image.record for image in found.missing] == images[2:]


def test_an_unfinished_set_has_its_settings(tmp_path):
    settings = {"config": {"flip_probability": 0.5}}
    found = read_set(write(tmp_path / "set", settings=settings, files=["dog/0.png"]))
    assert not found.finished
    assert found.mirrored is True
    assert found.images == ()
    assert missing_images(str(tmp_path / "set")) is None  # of a library's user: no way to resume
    (tmp_path / "set" / "synthesize.yaml").write_text("")
    assert "unfinished synthetic set" in missing_images(str(tmp_path / "set"))
    with pytest.raises(UserError, match=r"manifest\.json does not list the class names"):
        found.classes()


STRANGE = {
    "no JSON": "{",
    "a list": "[1]",
    "a number": "3",
    "an empty object": "{}",
    "images that are no list": '{"images": {"a": 1}}',
    "another tool's": '{"images": [{"file_name": "a.jpg", "id": 1}], "info": {}}',
    "a web page's": '{"name": "app", "icons": []}',
    "records of every kind": '{"images": [null, 3, "x", [], {}, {"file": null}, {"file": 3}]}',
    "a strange config": '{"config": [], "images": [], "classes": []}',
    "a strange probability": '{"config": {"flip_probability": "often"}}',
    "indices beyond the total": (
        '{"classes": {"names": ["cat"], "indices": [9], "total": 3}, "class_names": ["a","b","c"]}'
    ),
    "names of two lengths": '{"classes": {"names": ["cat", "dog"], "indices": [0], "total": 3}}',
}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
def test_a_strange_manifest_stops_nobody_but_who_needs_its_classes(tmp_path, text):
    root = write(tmp_path / "set", text, files=["cat/0.png"])
    found = read_set(root)
    assert found.finished
    assert found.mirrored is None
    assert found.images == found.missing == ()
    assert missing_images(str(root)) is None
    assert found.damage is None or "\n" not in found.damage
    message = r"manifest\.json does not list the class names, indices and total \(.+\); synthesize"
    with pytest.raises(UserError, match=message):
        open_data(str(root))


@pytest.mark.parametrize("file", ["/cat/0.png", "../set/cat/0.png", "0.png", ""])
def test_images_outside_the_set_are_none_of_it(tmp_path, file):
    (tmp_path / "0.png").touch()
    images = [record(file), record("cat/0.png")]
    found = read_set(write(tmp_path / "set", {"images": images}, files=["cat/0.png"]))
    assert [image.record for image in found.images] == images[1:]
    assert found.damage == "1 of its 2 images name no file of the set"


def test_the_newest_finished_set_comes_first(tmp_path):
    assert finished_sets(tmp_path) == []
    (tmp_path / "demo").mkdir()
    for age, name in enumerate(["new", "demo/old"]):
        write(tmp_path / name, {})
        os.utime(tmp_path / name / "manifest.json", (1000, 1000 - age))
    write(tmp_path / "unfinished", settings={})
    assert finished_sets(tmp_path) == [tmp_path / "new", tmp_path / "demo/old"]


def test_an_evaluation_set_with_fewer_classes_than_are_trained(tmp_path):
    root = tmp_path / "data"
    write(root, files=["train/cat/0.png", "train/dog/0.png"])
    write(root / "val", {"classes": {**CLASSES, "names": ["dog"], "indices": [7]}})
    write(root / "val", files=["dog/0.png"])
    train, evaluation = open_data(str(root))
    assert evaluation.labels.tolist() == [1]
    assert evaluation.classes == train.classes


def two_sets(tmp_path, second=CLASSES):
    """Sets of 2 and 1 images, in folders named by the numbers 1 and 2."""
    files = {1: ["dog/0.png", "cat/0.png"], 2: ["dog/1.png", "cat/1.png"]}
    for number, classes in ((1, CLASSES), (2, second)):
        config = {"flip_probability": 0.5 * (number == 1), "image_format": "png"}
        images = [record(file) for file in files[number]]
        manifest = {"classes": classes, "config": config, "images": images}
        (tmp_path / f"round-{number}").mkdir()
        write(tmp_path / f"round-{number}" / "set", manifest, files=files[number])
    return f"{tmp_path}/round-{{1..2}}/set"


@pytest.mark.parametrize("pattern", ["{1..2}", "*", "{1..1}"])
def test_several_sets_are_one_source(tmp_path, pattern):
    data = two_sets(tmp_path).replace("{1..2}", pattern)
    source, evaluation = open_data(data)
    alone = [open_data(str(tmp_path / f"round-{n}" / "set"))[0] for n in (1, 2)]
    alone = alone[:1] if pattern == "{1..1}" else alone
    assert evaluation is None
    assert len(source) == sum(map(len, alone))
    assert source.labels.tolist() == [label for one in alone for label in one.labels.tolist()]
    names = [one.name(row) for one in alone for row in range(len(one))]
    assert [source.name(row) for row in range(len(source))] == names
    assert source.image(len(source) - 1).size == (9, 9)
    assert source.classes == alone[0].classes
    assert source.classes.indices == (3, 7)
    assert open_data(data)[0].fingerprint() == source.fingerprint()
    assert (source.fingerprint() == alone[0].fingerprint()) == (len(alone) == 1)
    assert [found.root.parent.name for found in read_sets(data)] == ["round-1", "round-2"][
        : len(alone)
    ]


def test_what_is_lost_of_several_sets_is_told_of_each(tmp_path):
    data = two_sets(tmp_path)
    assert missing_images(data) is None
    (tmp_path / "round-2" / "set" / "cat" / "1.png").unlink()
    line = missing_images(data)
    assert line.startswith(f"{tmp_path}/round-2/set lacks 1 of the 2 images that its manifest")
    assert line.endswith(f"dearkd synthesize --resume --out {tmp_path}/round-2/set")
    (tmp_path / "round-2").rename(tmp_path / "my round")
    line = missing_images(str(tmp_path / "my round" / "set"))
    assert line.endswith(f"dearkd synthesize --resume --out '{tmp_path}/my round/set'")


@pytest.mark.parametrize("lost", ["classes", "manifest"])
def test_sets_of_other_classes_are_not_joined(tmp_path, lost):
    second = {**CLASSES, "indices": [7, 4]} if lost == "classes" else CLASSES
    data = two_sets(tmp_path, second)
    if lost == "manifest":
        (tmp_path / "round-2" / "set" / "manifest.json").rename(tmp_path / "gone.json")
        (tmp_path / "round-2" / "set" / "settings.json").write_text("{}")
    with pytest.raises(UserError, match=r"round-2/set are not of the same classes, or one of"):
        open_data(data)
    with pytest.raises(UserError, match=r"round-3/set, which is not there; correct the pattern"):
        open_data(data.replace("2}", "3}"))


def test_a_set_of_parquet_files_can_be_measured_and_judged_on(tmp_path):
    """Its files are called train, and it is all that there is to evaluate."""
    root = write(tmp_path / "set", manifest={}, files=["0.png"])
    (root / "data").mkdir()
    cells = [(root / "0.png").read_bytes()] * 2
    (root / "data" / "train-000000.parquet").write_bytes(
        shard_bytes(["0.png"] * 2, cells, [0, 1], ["cat", "dog"])
    )
    assert len(open_evaluation(str(root))) == len(open_data(str(root))[0]) == 2
