"""Which of the trained classes evaluation images are of, where names or numbers tell."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dearkd.data.class_matching import match_classes, order_note
from dearkd.data.datasets import open_data, open_evaluation, renumbered
from dearkd.data.sources import Classes
from dearkd.errors import UserError
from synth.shards import shard_bytes

MODEL = ("zebra", "ant", "cat")
"""The classes of a model, not in the order of their names."""


def make_folders(root, names):
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / "0.png")
    return str(root)


def make_set(root, indices, names):
    """What `dearkd synthesize` leaves: class folders and the teacher's index of each."""
    folders = [f"{index:05d}" if names is None else names[index] for index in indices]
    make_folders(root, folders)
    return with_manifest(root, folders, indices, names)


def with_manifest(root, folders, indices, names):
    table = {"names": folders, "indices": list(indices), "total": len(MODEL)}
    content = {"classes": table, "class_names": names, "images": []}
    (root / "manifest.json").write_text(json.dumps(content))
    return str(root)


def numbers(root):
    """A parquet file of one image of each class, which it gives numbers alone."""
    make_folders(root, "0")
    cells = [{"bytes": (root / "0" / "0.png").read_bytes(), "path": None}] * len(MODEL)
    pq.write_table(pa.table({"image": cells, "label": [0, 1, 2]}), root / "test.parquet")
    return str(root / "test.parquet")


def judged_as(train, evaluation, model_names):
    """The model's class of each evaluation image: as a training run and as `eval` find it."""
    source, other = open_data(train, evaluation)
    class_map = match_classes(source.classes, model_names, len(MODEL))
    in_training = renumbered(other, source.classes, class_map=class_map, model_names=model_names)
    alone = open_evaluation(evaluation)
    later = np.asarray(match_classes(alone.classes, model_names, len(MODEL)))[alone.labels]
    return np.asarray(class_map)[in_training.labels].tolist(), later.tolist()


def test_numbers_are_the_models_classes_in_training_as_afterwards(tmp_path):
    """Of the one side or of the other, in images or in a set."""
    folders, named = make_folders(tmp_path / "named", MODEL), list(MODEL)
    file = numbers(tmp_path / "numbers")
    for train, evaluation, wanted in (
        (file, folders, [1, 2, 0]),  # ant, cat, zebra
        (folders, file, [0, 1, 2]),
        (make_set(tmp_path / "set", (1, 2, 0), named), file, [0, 1, 2]),
        (make_set(tmp_path / "other", (1, 2, 0), named), folders, [1, 2, 0]),
    ):
        assert judged_as(train, evaluation, MODEL) == (wanted, wanted)


def test_the_folders_of_a_nameless_teachers_set_are_no_names(tmp_path):
    folders = make_folders(tmp_path / "named", MODEL)
    whole = make_set(tmp_path / "whole", range(3), None)
    assert judged_as(whole, folders, None) == ([0, 1, 2], [0, 1, 2])
    images = [(tmp_path / "named" / "cat" / "0.png").read_bytes()] * 3
    (tmp_path / "rows" / "data").mkdir(parents=True)
    content = shard_bytes(list("abc"), images, range(3), ["00000", "00001", "00002"])
    (tmp_path / "rows" / "data" / "train-0.parquet").write_bytes(content)
    rows = with_manifest(tmp_path / "rows", ["00000", "00001", "00002"], range(3), None)
    assert judged_as(rows, folders, None) == ([0, 1, 2], [0, 1, 2])


def test_of_a_set_of_some_classes_only_these_are_judged(tmp_path):
    some = make_set(tmp_path / "some", (0, 2), None)
    source, other = open_data(some, make_folders(tmp_path / "named", MODEL))
    kept = renumbered(other, source.classes, class_map=(0, 2))
    assert [kept.name(row).split("/")[-2] for row in range(len(kept))] == ["ant", "zebra"]
    assert kept.labels.tolist() == [0, 1]


def test_images_of_no_trained_class_are_refused(tmp_path):
    _, other = open_data(make_folders(tmp_path / "train", MODEL[:2]), numbers(tmp_path / "file"))
    with pytest.raises(UserError, match="has label 1, which is none of the training data's 2"):
        renumbered(other, Classes(2, MODEL[::2]), class_map=(0, 2), model_names=MODEL)
    fox = open_evaluation(make_folders(tmp_path / "fox", ["fox"]))
    with pytest.raises(UserError, match="1 of 1 data classes are unknown to the teacher's 3"):
        renumbered(fox, Classes(3), class_map=(0, 1, 2), model_names=MODEL)


def test_an_assumed_order_is_told(tmp_path):
    named = open_evaluation(make_folders(tmp_path / "named", MODEL)).classes
    told = "no names, so the data's are taken in the order of theirs (ant, cat, zebra); if that is"
    assert told in order_note(named, None)
    assert order_note(named, MODEL) is None
    assert order_note(Classes(3), None) is None
    assert order_note(Classes(2, ("0", "1")), None) is None
    with pytest.raises(
        UserError, match=r"no class names tell.*; name the model's \(label_names in"
    ):
        match_classes(named, None, 4)
