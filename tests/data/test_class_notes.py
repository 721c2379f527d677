"""Classes without an image, with one, or unknown to the evaluation: told of, and no obstacle."""

import numpy as np
import pytest
from commands import refused
from conftest import numbered
from PIL import Image

from dearkd.data.class_notes import class_notes
from dearkd.data.datasets import open_data, open_evaluation, subset
from dearkd.data.sources import Classes
from dearkd.errors import UserError


def write_folder(root, counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (6, 4)).save(root / name / f"{number}.png")
    return root


class Labels:
    """A source of which only labels and classes matter."""

    def __init__(self, labels, classes):
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = classes


def test_an_empty_class_folder_keeps_its_index_and_is_told_of(tmp_path):
    write_folder(tmp_path / "train", {"cat": 2, "dog": 0, "fox": 1})
    write_folder(tmp_path / "val", {"cat": 1, "dog": 0, "fox": 0})
    train, evaluation = open_data(str(tmp_path))
    assert train.classes == Classes(3, ("cat", "dog", "fox"))
    assert train.labels.tolist() == [0, 0, 2]
    assert evaluation.labels.tolist() == [0]
    assert class_notes(train, evaluation) == [
        "1 of 3 classes has no training image and is not learned, but keeps its index: dog",
        "1 of 3 classes has a single training image: fox",
        "1 of 3 classes has no evaluation image, so the accuracy says nothing of it: fox",
    ]
    assert len(class_notes(train, None)) == 2
    assert class_notes(subset(train, 0.5), evaluation)[1].startswith("2 of 3 classes have a single")


def test_an_empty_folder_of_the_evaluation_need_not_be_a_class(tmp_path):
    write_folder(tmp_path / "train", {"cat": 2, "dog": 2})
    write_folder(tmp_path / "val", {"cat": 1, "notes": 0})
    train, evaluation = numbered(tmp_path)
    assert evaluation.classes == train.classes
    write_folder(tmp_path / "other", {"cat": 1, "notes": 0})
    _, other = numbered(tmp_path / "train", tmp_path / "other")
    assert other.labels.tolist() == [0]
    assert other.classes == train.classes


def test_folders_without_any_image_are_refused(tmp_path):
    write_folder(tmp_path / "train", {"cat": 0, "dog": 0})
    with pytest.raises(UserError, match=r"train has 2 class folders \(cat, dog\) but no image"):
        open_data(str(tmp_path))
    with pytest.raises(UserError, match=r"but no image in them \(.*\.png.*\); add"):
        open_evaluation(str(tmp_path / "train"))


def test_five_classes_are_named_and_the_rest_counted():
    train = Labels(np.repeat(np.arange(9), 2), Classes(1000))
    evaluation = Labels([8], Classes(1000))
    nothing, unseen = class_notes(train, evaluation)
    assert nothing.startswith("991 of 1000 classes have no training image and are not learned")
    assert nothing.endswith("but keep their index: 9, 10, 11, 12, 13 and 986 more")
    assert unseen == (
        "8 of 1000 classes have no evaluation image, so the accuracy says nothing of them: "
        "0, 1, 2, 3, 4 and 3 more"
    )


def test_whole_data_has_no_notes():
    assert class_notes(*open_data("digits")) == []


def test_images_beside_the_class_folders_are_told_of(tmp_path):
    write_folder(tmp_path / "train", {"cat": 2, "dog": 2})
    train, _ = open_data(str(tmp_path / "train"))
    assert class_notes(train, None) == []
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png"):
        (tmp_path / "train" / name).write_bytes(b"")
    assert class_notes(subset(train, 0.5), None)[0] == (
        f"2 images beside the class folders of {tmp_path / 'train'} have no class and are left "
        "out: a.JPG, ..."
    )


def test_labels_of_one_class_teach_nothing(tmp_path):
    write_folder(tmp_path / "data", {"cat": 12})
    line = refused("train", "--method", "ce", "--data", tmp_path / "data")
    assert "the data has 1 class (cat), and training on labels needs at least 2" in line
    line = refused("teacher", "dearkd_resnet10t_32", "--data", tmp_path / "data")
    assert "the data has 1 class (cat)" in line
