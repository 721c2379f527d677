"""Images without labels: which folders have none, and that nothing else takes a label's place."""

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dearkd.data.augment import train_augment
from dearkd.data.datasets import open_data, open_evaluation, subset
from dearkd.data.feed import DeviceBatches
from dearkd.data.folders import FolderSource
from dearkd.data.loaders import train_loader
from dearkd.data.mixing import Mixing
from dearkd.data.order import EpochOrder
from dearkd.data.settings import DataConfig
from dearkd.data.sources import NO_LABEL, UNLABELLED
from dearkd.errors import UserError


def draw(*files):
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (number, 0, 0)).save(file, "PNG")


def names(source):
    return [source.name(row).rpartition("/")[2] for row in range(len(source))]


def encoded(number):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def is_unlabelled(source):
    return source.classes == UNLABELLED and set(source.labels.tolist()) == {NO_LABEL}


def test_pictures_that_lie_in_a_folder_have_no_labels(tmp_path):
    draw(tmp_path / "img2.png", tmp_path / "img10.png", tmp_path / ".hidden.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.txt").write_text("no picture")
    draw(tmp_path / ".thumbnails" / "img2.png")
    source, evaluation = open_data(str(tmp_path))
    assert is_unlabelled(source)
    assert evaluation is None
    assert names(source) == ["img2.png", "img10.png"]
    assert source.image(1).getpixel((0, 0)) == (1, 0, 0)


def test_labelled_images_beside_plain_pictures_to_train_on_are_evaluated_on(tmp_path):
    """They were refused for the pictures, which nobody asked for."""
    draw(tmp_path / "train" / "a.png", tmp_path / "val" / "cat" / "b.png")
    draw(tmp_path / "val" / "dog" / "c.png")
    source = open_evaluation(str(tmp_path))
    assert source.classes.names == ("cat", "dog")
    assert names(source) == ["b.png", "c.png"]


def test_class_folders_keep_their_labels_whatever_lies_beside_them(tmp_path):
    draw(tmp_path / "cat" / "a.png", tmp_path / "dog" / "b.png", tmp_path / "cover.png")
    source, _ = open_data(str(tmp_path))
    assert isinstance(source, FolderSource)
    assert source.labels.tolist() == [0, 1]
    left_out, _ = open_data(str(tmp_path), labels="none")
    assert is_unlabelled(left_out)
    assert sorted(names(left_out)) == ["a.png", "b.png", "cover.png"]


def test_folders_by_date_are_taken_for_classes_unless_labels_are_left_out(tmp_path):
    draw(tmp_path / "2024" / "01" / "a.png", tmp_path / "2025" / "b.png")
    assert open_data(str(tmp_path))[0].classes.names == ("2024", "2025")
    assert is_unlabelled(open_data(str(tmp_path), labels="none")[0])


def test_a_val_folder_beside_pictures_is_judged_on_if_it_has_labels(tmp_path):
    draw(tmp_path / "train" / "a.png", tmp_path / "train" / "b.png")
    draw(tmp_path / "val" / "c.png")
    assert open_data(str(tmp_path))[1] is None
    (tmp_path / "val" / "c.png").unlink()
    draw(tmp_path / "val" / "dog" / "c.png", tmp_path / "val" / "cat" / "d.png")
    source, evaluation = open_data(str(tmp_path))
    assert is_unlabelled(source)
    assert evaluation.classes.names == ("cat", "dog")
    assert evaluation.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_class_that_is_called_as_a_split_is_not_taken_for_one(tmp_path, name):
    draw(tmp_path / "bus" / "a.png", tmp_path / "car" / "b.png", tmp_path / name / "c.png")
    message = rf"/{name} holds pictures and no class folders, and bus beside .* into one called tr"
    for read in (open_data, open_evaluation):
        with pytest.raises(UserError, match=message):
            read(str(tmp_path))
    for folder in ("bus", "car", name):
        (tmp_path / folder).rename(tmp_path / f"class-{folder}")
    (tmp_path / "train").mkdir()
    for folder in ("bus", "car", name):
        (tmp_path / f"class-{folder}").rename(tmp_path / "train" / folder)
    assert open_data(str(tmp_path))[0].classes.names == ("bus", "car", name)


def test_splits_may_begin_with_a_capital(tmp_path):
    """They were taken for the classes Train and Val."""
    for split in ("Train", "VAL"):
        draw(tmp_path / split / "cat" / "a.png", tmp_path / split / "dog" / "b.png")
    source, evaluation = open_data(str(tmp_path))
    assert source.classes.names == evaluation.classes.names == ("cat", "dog")
    assert len(source) == len(evaluation) == 2


def test_a_split_of_pictures_may_have_company(tmp_path):
    draw(tmp_path / "train" / "a.png", tmp_path / "test" / "b.png", tmp_path / "spare" / "c.png")
    assert names(open_data(str(tmp_path))[0]) == ["a.png"]


def test_parquet_needs_no_label_column_and_none_of_its_labels_is_looked_at(tmp_path):
    cells = [{"bytes": encoded(number), "path": None} for number in range(3)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "bare.parquet")
    pq.write_table(pa.table({"image": cells, "label": [-1, None, -1]}), tmp_path / "odd.parquet")
    for name in ("bare", "odd"):
        file = str(tmp_path / f"{name}.parquet")
        source, _ = open_data(file, labels="none")
        assert is_unlabelled(source)
        assert len(source) == 3
        assert source.image(2).getpixel((0, 0)) == (2, 0, 0)
    with pytest.raises(UserError, match=r"has no label column.*or train without labels: --unlab"):
        open_data(str(tmp_path / "bare.parquet"))


def test_an_evaluation_split_without_labels_is_no_part_of_the_training_files(tmp_path):
    table = pa.table({"image": [{"bytes": encoded(0), "path": None}]})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=r"has an evaluation split .*; pass the files to train on"):
        open_data(str(tmp_path), labels="none")
    assert is_unlabelled(open_data(str(tmp_path / "train.parquet"), labels="none")[0])


def test_tars_need_no_labels_either(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name, content in (("a.png", encoded(0)), ("b.png", encoded(1)), ("b.cls", b"oops ")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    source, _ = open_data(str(tmp_path), labels="none")
    assert is_unlabelled(source)
    assert names(source) == ["train-0.tar"] * 2
    with pytest.raises(UserError, match=r"no \.cls or \.json label; add one, or train without"):
        open_data(str(tmp_path))


def test_labels_of_the_digits_are_left_out_but_not_those_they_are_judged_by():
    source, evaluation = open_data("digits", labels="none")
    assert is_unlabelled(source)
    assert len(np.unique(evaluation.labels)) == 10


def test_a_fraction_is_a_share_of_all_and_the_smaller_is_in_the_larger(tmp_path):
    draw(*(tmp_path / f"{number}.png" for number in range(20)))
    source, _ = open_data(str(tmp_path))
    half, tenth = subset(source, 0.5), subset(source, 0.1)
    assert (len(half), len(tenth)) == (10, 2)
    assert set(names(tenth)) <= set(names(half))
    assert is_unlabelled(tenth)


def test_what_needs_labels_is_refused(tmp_path):
    draw(tmp_path / "photos" / "a.png")
    with pytest.raises(UserError, match=r"photos holds no class folders; put each class's"):
        open_evaluation(str(tmp_path / "photos"))
    with pytest.raises(UserError, match=r"data\.validation=0\.5 has no effect on images without"):
        open_data(str(tmp_path / "photos"), validation=0.5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no image \(\.bmp, "):
        open_data(str(tmp_path / "empty"), labels="none")


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_targets_of_images_without_labels_say_nothing(mixup, tmp_path):
    draw(*(tmp_path / f"{number}.png" for number in range(8)))
    source, _ = open_data(str(tmp_path))
    loader = train_loader(
        source,
        train_augment("light", 16, mean=(0.5,) * 3, std=(0.5,) * 3),
        EpochOrder(images=8, batch_size=4, seed=0),
        mixing=Mixing(mixup=mixup, cutmix=0.0),
        class_map=(3, 1),
    )
    assert set(loader.views.labels.tolist()) == {NO_LABEL}
    config = DataConfig(mixup=mixup, smoothing=0.1)
    batches = DeviceBatches(loader, config, 5, torch.device("cpu"))
    targets = torch.cat([targets for _, targets in batches(0, 0)])
    torch.testing.assert_close(targets, torch.full((8, 5), 0.2))
