"""Sources: what is accepted, what each image becomes, and what bad data is told."""

import errno
import io
import json
import pickle
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import numbered
from PIL import Image
from sklearn.datasets import load_digits

from dearkd.data.class_matching import match_classes
from dearkd.data.datasets import open_data, open_evaluation, subset
from dearkd.data.decode import BadImageError, open_image, to_rgb
from dearkd.data.folders import PackedNames
from dearkd.data.hosted import TimmSource
from dearkd.data.parquet import ParquetSource
from dearkd.data.sources import Classes
from dearkd.errors import UserError


def encoded(color, size=(6, 4), fmt="PNG", mode="RGB", **options):
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, fmt, **options)
    return buffer.getvalue()


def write_folder(root, classes, count=2, color=(10, 20, 30)):
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(encoded(color))
    return root


def write_parquet(file, labels, names=None, column="image", as_struct=True):
    images = [encoded((int(n), 0, 0)) for n in range(len(labels))]
    cells = [{"bytes": b, "path": None} for b in images] if as_struct else images
    table = pa.table({column: cells, "label": labels})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=3)


def test_digits_are_those_of_scikit_learn():
    digits, source = load_digits(), open_data("digits")[0]
    for index in (0, 700, 1437):
        row = int(source.name(index).split()[1])
        pixels = np.asarray(source.image(index))[..., 0]
        assert (pixels == np.round(digits.images[row] * (255 / 16))).all()
        assert source.labels[index] == digits.target[row]


def test_digits_split_is_stratified_disjoint_and_real():
    train, test = open_data("digits")
    assert len(train) + len(test) == 1797
    assert train.classes.names == tuple("0123456789")
    share = np.bincount(train.labels) / (np.bincount(train.labels) + np.bincount(test.labels))
    assert np.abs(share - 0.8).max() < 0.005
    names = {train.name(i) for i in range(len(train))} | {test.name(i) for i in range(len(test))}
    assert len(names) == 1797
    images = np.stack([np.asarray(train.image(i)) for i in range(50)])
    assert images.shape == (50, 8, 8, 3)
    assert (images.min(), images.max()) == (0, 255)


def test_folder_with_splits_and_nested_images(tmp_path):
    write_folder(tmp_path / "train", ["cat", "dog", "img10", "img2"])
    write_folder(tmp_path / "test", ["dog"], count=1)
    (tmp_path / "train" / "dog" / "deep").mkdir()
    (tmp_path / "train" / "dog" / "deep" / "x.JPG").write_bytes(encoded((0, 0, 0), fmt="JPEG"))
    (tmp_path / "train" / "dog" / "notes.txt").write_text("no image")
    write_folder(tmp_path / "train", [".cache", "dog/.ipynb_checkpoints"])
    train, test = open_data(str(tmp_path))
    assert train.classes.names == ("cat", "dog", "img2", "img10")
    assert np.bincount(train.labels).tolist() == [2, 3, 2, 2]
    assert test.labels.tolist() == [1]
    assert Path(train.name(0)).is_file()


def test_links_lead_to_an_image_once(tmp_path):
    write_folder(tmp_path, ["cat", "dog", "cat/b", "cat/d"])
    for name, target in (("self", "."), ("b/up", ".."), ("root", "../.."), ("c", "b")):
        (tmp_path / "cat" / name).symlink_to(target)
    (tmp_path / "dog" / "more").symlink_to("../cat/d")  # a link that is wanted
    source, _ = open_data(str(tmp_path))
    assert np.bincount(source.labels).tolist() == [6, 4]
    assert [Path(source.name(row)).relative_to(tmp_path).as_posix() for row in (0, 2, 9)] == [
        *("cat/0.png", "cat/b/0.png", "dog/more/1.png"),
    ]


def test_bare_folders_have_no_evaluation_unless_given(tmp_path):
    data = write_folder(tmp_path / "a", ["cat", "dog"])
    other = write_folder(tmp_path / "b" / "val", ["DOG"]).parent
    assert open_data(str(data))[1] is None
    _, evaluation = numbered(data, other)
    assert evaluation.labels.tolist() == [1, 1]
    assert evaluation.classes.names == ("cat", "dog")
    assert len(open_evaluation(str(data))) == 4


def test_manifest_keeps_the_teachers_indices(tmp_path):
    write_folder(tmp_path, ["cat", "dog", "previews"])
    table = {"names": ["dog", "cat"], "indices": [7, 3], "total": 10}
    (tmp_path / "manifest.json").write_text(json.dumps({"classes": table}))
    train, _ = open_data(str(tmp_path))
    assert train.classes == Classes(2, ("cat", "dog"), (3, 7), 10)
    assert match_classes(train.classes, None, 10) == (3, 7)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest\.json does not list.*'classes'.*remove it"):
        open_data(str(tmp_path))


@pytest.mark.parametrize("as_struct", [True, False])
def test_parquet_in_hugging_face_layout(tmp_path, as_struct):
    names = ["cat", "dog"]
    labels = [0, 1, 1, 0, 1]
    write_parquet(tmp_path / "train-00000-of-00002.parquet", labels, names, "img", as_struct)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [0, 1], names, "img", as_struct)
    write_parquet(tmp_path / "validation.parquet", [1], names, "img", as_struct)
    write_parquet(tmp_path / "test.parquet", [0, 0], names, "img", as_struct)
    train, evaluation = open_data(str(tmp_path))
    assert train.labels.tolist() == [*labels, 0, 1]
    assert train.classes == Classes(2, ("cat", "dog"))
    assert evaluation.labels.tolist() == [1]
    for index, red in enumerate([0, 1, 2, 3, 4, 0, 1]):
        assert train.image(index).getpixel((0, 0)) == (red, 0, 0)
    assert train.name(4).startswith("row 4 of ")
    assert train.name(6).endswith("train-00001-of-00002.parquet")
    assert train.name(6).startswith("row 1 of ")


def test_parquet_travels_without_its_tables(tmp_path):
    write_parquet(tmp_path / "a.parquet", [0, 1])
    source, _ = open_data(str(tmp_path / "a.parquet"))
    source.image(0)
    copy = pickle.loads(pickle.dumps(source))
    assert not copy._tables
    assert copy.image(1).getpixel((0, 0)) == (1, 0, 0)


def test_parquet_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("dearkd.data.parquet._MEMORY_LIMIT", 1)
    write_parquet(tmp_path / "a.parquet", [0] * 7)
    source = ParquetSource([tmp_path / "a.parquet"])
    for index in (0, 6, 3, 0):
        assert source.image(index).getpixel((0, 0)) == (index, 0, 0)
        assert len(source._tables) == 1


def test_parquet_with_named_labels(tmp_path):
    write_parquet(tmp_path / "a.parquet", ["b", "a", "b"])
    source, _ = open_data(str(tmp_path / "a.parquet"))
    assert source.classes.names == ("a", "b")
    assert source.labels.tolist() == [1, 0, 1]


def test_parquet_errors_name_file_and_remedy(tmp_path):
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"bad\.parquet is not a parquet file; fetch"):
        open_data(str(bad))
    pq.write_table(pa.table({"x": [1]}), bad)
    with pytest.raises(ValueError, match=r"no image column.*columns: x.*name it one of image"):
        open_data(str(bad))
    pq.write_table(pa.table({"image": [b""]}), bad)
    with pytest.raises(ValueError, match=r"no label column"):
        open_data(str(bad))
    write_parquet(bad, [0, -1])
    with pytest.raises(ValueError, match=r"label -1, outside"):
        open_data(str(bad))
    write_parquet(bad, [0, 2], ["a", "b"])
    with pytest.raises(ValueError, match=r"label 2, outside 0\.\.1"):
        open_data(str(bad))
    write_parquet(bad, [0, None])
    with pytest.raises(ValueError, match=r"rows without 'label'"):
        open_data(str(bad))
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "label": []}), bad)
    with pytest.raises(ValueError, match=r"bad\.parquet has no rows"):
        open_data(str(bad))
    write_parquet(bad, [0])
    write_parquet(tmp_path / "other.parquet", [0], column="img")
    with pytest.raises(ValueError, match=r"has other columns than"):
        open_data(str(tmp_path))


def test_parquet_files_of_other_classes_are_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet", [0, 1], ["cat", "dog"])
    write_parquet(tmp_path / "b.parquet", [0, 1], ["dog", "cat"])
    with pytest.raises(UserError, match=r"b\.parquet numbers other classes than .*a\.parquet"):
        open_data(str(tmp_path))
    assert not open_data(str(tmp_path), labels="none")[0].classes.known
    write_parquet(tmp_path / "b.parquet", ["dog", "cat"])
    with pytest.raises(UserError, match=r"b\.parquet has string in column 'label' and .*int64"):
        open_data(str(tmp_path))
    write_parquet(tmp_path / "b.parquet", [])  # of no type
    assert len(open_data(str(tmp_path))[0]) == 2


def test_a_label_that_is_no_class_is_not_laid_on_another_file(tmp_path):
    write_parquet(tmp_path / "a.parquet", [0])
    write_parquet(tmp_path / "b.parquet", [-1])
    with pytest.raises(UserError, match=rf"^{tmp_path} has label -1, outside 0\.\.0"):
        open_data(str(tmp_path))


@pytest.mark.parametrize("name", ["torch/", "hfds/", "hfids//"])
def test_a_prefix_alone_names_no_data_set(name):
    with pytest.raises(UserError, match=f"^data '{name}' names no data set; name one, as in"):
        open_data(name)


def test_class_names_are_those_of_any_parquet_file(tmp_path):
    """Those of the first alone were looked at."""
    write_parquet(tmp_path / "a.parquet", [0, 1])
    write_parquet(tmp_path / "b.parquet", [1, 0], ["cat", "dog", "owl"])
    source, _ = open_data(str(tmp_path))
    assert source.classes.names == ("cat", "dog", "owl")
    assert source.labels.tolist() == [0, 1, 1, 0]
    write_parquet(tmp_path / "c.parquet", [0, 1], ["dog", "cat"])
    with pytest.raises(UserError, match=r"c\.parquet numbers other classes than .*b\.parquet"):
        open_data(str(tmp_path))


@pytest.mark.parametrize("stray", ["cat/x.parquet", "cat/deep/x.parquet", "dog/x.parquet"])
def test_a_stray_parquet_file_leaves_an_image_folder_one(tmp_path, stray):
    write_folder(tmp_path, ["cat", "dog"])
    write_parquet(tmp_path / stray, [0])
    assert open_data(str(tmp_path))[0].classes.names == ("cat", "dog")


def test_parquet_splits_in_folders(tmp_path):
    write_parquet(tmp_path / "train" / "0000.parquet", [0, 1])
    write_parquet(tmp_path / "validation" / "0000.parquet", [1])
    train, evaluation = open_data(str(tmp_path))
    assert (len(train), len(evaluation)) == (2, 1)


def test_hidden_files_and_folders_are_no_parquet_files(tmp_path):
    """macOS leaves ``._NAME`` beside what it copies; Spark writes a folder of parts."""
    write_parquet(tmp_path / "mac" / "a.parquet", [0, 1])
    write_parquet(tmp_path / "spark" / "a.parquet" / "part-0.parquet", [0, 1, 1])
    for name in ("mac/._a.parquet", "spark/a.parquet/._part-0.parquet", "spark/a.parquet/._0.png"):
        (tmp_path / name).write_bytes(b"no parquet")
    assert len(open_data(str(tmp_path / "mac"))[0]) == 2
    assert len(open_data(str(tmp_path / "spark"))[0]) == 3


def test_a_split_that_nobody_asks_for_is_not_opened(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1, 0, 1])
    write_parquet(tmp_path / "test.parquet", [-1, -1])  # as ImageNet's, without labels
    with pytest.raises(UserError, match=r"test\.parquet has label -1"):
        open_data(str(tmp_path))
    train, evaluation = open_data(str(tmp_path), validation=2)
    assert len(train) == len(evaluation) == 2
    write_parquet(tmp_path / "val.parquet", [1, 0, 1])
    (tmp_path / "train.parquet").write_bytes(b"not yet here")
    assert len(open_evaluation(str(tmp_path))) == 3


def test_evaluation_images_that_are_named_replace_a_split_of_other_classes(tmp_path):
    for place in ("data/train/cat", "data/train/dog", "data/val/owl", "other/cat"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / place / "0.png")
    with pytest.raises(UserError, match="has class 'owl'"):
        open_data(str(tmp_path / "data"))
    _, evaluation = open_data(str(tmp_path / "data"), str(tmp_path / "other"))
    assert evaluation.labels.tolist() == [0]


def test_parquet_row_without_bytes_is_a_bad_image(tmp_path):
    table = pa.table({"image": [{"bytes": None, "path": "x.png"}], "label": [0]})
    pq.write_table(table, tmp_path / "a.parquet")
    source = ParquetSource([tmp_path / "a.parquet"])
    with pytest.raises(BadImageError, match=r"row 0 of .*a\.parquet \(No such file"):
        source.image(0)
    (tmp_path / "x.png").write_bytes(encoded((5, 6, 7)))
    assert source.image(0).getpixel((0, 0)) == (5, 6, 7)


def test_torchvision_name_through_timm(tmp_path, monkeypatch):
    """Its files lie beside torch's downloads, so that they are found from any folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "datasets" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        rows = np.arange(2 * 3072).reshape(2, 3072) % 256
        batch = {"data": rows.astype(np.uint8), "labels": [3, 1]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    # The files are made up, so their checksums are not the published ones.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    train, test = open_data("torch/cifar10")
    assert train.labels.tolist() == [3, 1] * 5
    assert train.classes == Classes(10, tuple("abcdefghij"))
    assert train.image(0).size == (32, 32)
    assert test.name(1) == "image 1 of torch/cifar10 (validation)"


def test_timm_reader_names_the_broken_image_instead_of_taking_the_next(tmp_path):
    from timm.data.dataset_factory import create_dataset

    write_folder(tmp_path, ["cat", "dog"])
    (tmp_path / "cat" / "0.png").write_bytes(b"not an image")
    dataset = create_dataset("", root=str(tmp_path))
    dataset.reader.iter_targets = lambda: iter([label for _, label in dataset.reader.samples])
    source = TimmSource("folder", dataset)
    assert source.classes.names == ("cat", "dog")
    assert source.image(1).size == (6, 4)
    with pytest.raises(BadImageError, match=r"image 0 of folder \(not an image\)"):
        source.image(0)


def write_shard(file, samples, label_suffix="cls"):
    with tarfile.open(file, "w") as archive:
        for key, color, label in samples:
            text = json.dumps({"label": label}) if label_suffix == "json" else str(label)
            parts = [("png", encoded(color))]
            parts += [(label_suffix, text.encode())] if label is not None else []
            for suffix, content in parts:
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("suffix", ["cls", "json"])
def test_webdataset_shards_are_read_at_random(tmp_path, suffix):
    write_shard(tmp_path / "set-train-0.tar", [("a", (1, 1, 1), 1), ("b", (2, 2, 2), 0)], suffix)
    write_shard(tmp_path / "set-train-1.tar", [("a", (3, 3, 3), 1)], suffix)
    write_shard(tmp_path / "set-val-0.tar", [("z", (9, 9, 9), 0)], suffix)
    (tmp_path / "info.json").write_text(json.dumps({"classes": ["x", "y"]}))
    train, evaluation = open_data(f"wds/{tmp_path}")
    assert train.labels.tolist() == [1, 0, 1]
    assert [train.image(i).getpixel((0, 0))[0] for i in (2, 0, 1)] == [3, 1, 2]
    assert train.classes.names == ("x", "y")
    assert evaluation.image(0).getpixel((0, 0)) == (9, 9, 9)
    assert train.name(2).startswith("a.png in ")


def test_webdataset_errors(tmp_path):
    with pytest.raises(ValueError, match=r"/none' does not exist; pass .* tar shards"):
        open_data(f"wds/{tmp_path / 'none'}")
    with pytest.raises(ValueError, match=r"holds no \.tar shards"):
        open_data(f"wds/{tmp_path}")
    write_shard(tmp_path / "x.tar", [("a", (1, 1, 1), None)])
    with pytest.raises(ValueError, match=r"a\.png in .*x\.tar has no \.cls or \.json label"):
        open_data(f"wds/{tmp_path}")
    (tmp_path / "x.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match=r"is no webdataset shard"):
        open_data(f"wds/{tmp_path}")
    write_shard(tmp_path / "x.tar", [("a", (1, 1, 1), -1)])
    with pytest.raises(ValueError, match=r"label -1"):
        open_data(f"wds/{tmp_path}")
    (tmp_path / "x.tar").unlink()
    write_shard(tmp_path / "val.tar", [("a", (1, 1, 1), 0)])
    with pytest.raises(ValueError, match=r"has an evaluation split but no train split"):
        open_data(f"wds/{tmp_path}")
    for text in ("{", "[]", '{"classes": 3}', '{"classes": "ab"}', '{"classes": {"a": 1, "b": 0}}'):
        (tmp_path / "info.json").write_text(text)
        with pytest.raises(UserError, match=r"info\.json is damaged \(.+\); repair or remove it$"):
            open_data(f"wds/{tmp_path}")


def test_unknown_timm_name():
    with pytest.raises(ValueError, match=r"'torch/cifar12' is unknown to timm.*cifar12"):
        open_data("torch/cifar12")


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_a_tag_of_another_type_does_not_keep_an_image_from_being_turned():
    tags = exif(6)
    tags[0x010F] = ""
    odd = tags.tobytes().replace(b"\x01\x0f\0\2", b"\x01\x0f\0\5")  # the camera's maker as a ratio
    assert odd != tags.tobytes()
    turned = open_image(encoded((200, 0, 0), (6, 4), "JPEG", exif=odd), "x")
    assert turned.size == (4, 6)


def test_every_kind_of_image_becomes_upright_rgb(tmp_path):
    turned = open_image(encoded((200, 0, 0), (6, 4), "JPEG", exif=exif(6)), "x")
    assert turned.size == (4, 6)
    clear = open_image(encoded((0, 0, 0, 0), mode="RGBA"), "x")
    assert clear.getpixel((0, 0)) == (255, 255, 255)
    half = open_image(encoded((0, 0, 0, 128), mode="RGBA"), "x")
    assert half.getpixel((0, 0)) == (127, 127, 127)
    grey_alpha = open_image(encoded((40, 255), mode="LA"), "x")
    assert grey_alpha.getpixel((0, 0)) == (40, 40, 40)
    grey = open_image(encoded(77, mode="L", fmt="WEBP", lossless=True), "x")
    assert grey.getpixel((0, 0)) == (77, 77, 77)
    cyan = open_image(encoded((255, 0, 0, 0), mode="CMYK", fmt="JPEG", quality=100), "x")
    assert np.abs(np.asarray(cyan)[0, 0].astype(int) - [0, 255, 255]).max() < 6
    bilevel = open_image(encoded(1, mode="1", fmt="TIFF"), "x")
    assert bilevel.getpixel((0, 0)) == (255, 255, 255)
    assert all(i.mode == "RGB" for i in (turned, clear, half, grey_alpha, grey, cyan, bilevel))


def test_palette_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putdata([0, 1])
    assert [to_rgb(image).getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (200, 0, 0)]
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=1)
    opened = open_image(buffer.getvalue(), "x")
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]


def test_sixteen_bit_grey_is_scaled_not_clipped():
    levels = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    image = np.asarray(open_image(buffer.getvalue(), "x"))
    assert image[0, :, 1].tolist() == [0, 1, 128, 255]


def test_the_transparent_level_of_sixteen_bit_grey_shows_white():
    levels = np.array([[0, 257, 258, 32768]], dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG", transparency=257)
    image = np.asarray(open_image(buffer.getvalue(), "x"))
    assert image.tolist() == [[[level] * 3 for level in (0, 255, 1, 128)]]


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        (np.float32([[0, 1]]), "float pixels; save as 8 or 16 bits"),
        (np.int32([[-1, 200]]), r"pixels outside 0\.\.65535; save as 8 or 16 bits"),
        (np.int32([[0, 70_000]]), r"pixels outside 0\.\.65535; save as 8 or 16 bits"),
    ],
)
def test_levels_of_which_nobody_knows_black_and_white_are_no_image(levels, reason):
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "TIFF")
    with pytest.raises(BadImageError, match=rf"cannot decode x \({reason}\)"):
        open_image(buffer.getvalue(), "x")


def test_damaged_files_are_bad_images(tmp_path):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for fmt in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        picture.save(buffer, fmt)
        file = tmp_path / f"half.{fmt}"
        file.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        with pytest.raises(BadImageError, match=rf"cannot decode here {fmt} \(.+\)$"):
            open_image(file, f"here {fmt}")
    Image.init()
    if "AVIF" in Image.SAVE:  # Pillow can have it since 11.3
        damaged = encoded((200, 0, 0), (40, 40), "AVIF").replace(b"av01", b"av02")
        with pytest.raises(BadImageError, match=r"Failed to decode"):
            open_image(damaged, "x")
    with pytest.raises(BadImageError, match=r"not an image"):
        open_image(b"", "x")
    with pytest.raises(BadImageError, match=r"No such file"):
        open_image(tmp_path / "gone.png", "x")
    with pytest.raises(BadImageError, match=r"not a regular file"):
        open_image(tmp_path, "x")

    def full():
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(OSError, match="Too many open files") as caught:
        open_image(full, "x")
    assert not isinstance(caught.value, BadImageError)  # the machine's error is not the image's

    def no_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        open_image(no_memory, "x")


def test_one_pixel_image_is_fine():
    assert open_image(encoded((1, 2, 3), (1, 1)), "x").getpixel((0, 0)) == (1, 2, 3)


def test_subsets_are_per_class_nested_and_fixed(tmp_path):
    train, _ = open_data("digits")
    tenth, fifth = subset(train, 0.1), subset(train, 0.2)
    counts = np.bincount(train.labels)
    assert np.bincount(tenth.labels).tolist() == [round(0.1 * n) for n in counts]
    assert set(tenth.rows) < set(fifth.rows)
    assert np.array_equal(subset(train, 0.1).rows, tenth.rows)
    assert tenth.name(5) == train.name(int(tenth.rows[5]))
    assert np.array_equal(np.asarray(tenth.image(5)), np.asarray(train.image(tenth.rows[5])))
    assert np.bincount(subset(train, 1e-9).labels).tolist() == [1] * 10
    assert subset(train, 1.0) is train


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match=r"fraction must be above 0 and at most 1, got"):
        subset(open_data("digits")[0], fraction)


def test_bad_folders_are_told_value_and_remedy(tmp_path):
    for name in ("digit", "", " ", "wds/"):
        message = rf"'{name}' does not exist; pass digits, an image"
        with pytest.raises(FileNotFoundError, match=message):
            open_data(name)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"empty holds nothing; put"):
        open_data(str(empty))
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.zip' is a file but no \.parquet"):
        open_data(str(tmp_path / "x.zip"))
    write_folder(tmp_path / "d" / "train", ["cat", "dog"])
    write_folder(tmp_path / "d" / "val", ["cat", "fox"])
    with pytest.raises(ValueError, match=r"val has class 'fox', not among the 2 classes"):
        open_data(str(tmp_path / "d"))
    with pytest.raises(ValueError, match=r"evaluation data: 1 of 2 data classes are unknown.*fox"):
        numbered(tmp_path / "d" / "train", tmp_path / "d" / "val")
    write_folder(tmp_path / "e" / "val", ["cat"])
    with pytest.raises(ValueError, match=r"has an evaluation split but no train split"):
        open_data(str(tmp_path / "e"))
    write_folder(tmp_path / "f" / "train", ["cat"])
    with pytest.raises(ValueError, match=r"has a train split alone"):
        open_evaluation(str(tmp_path / "f"))


def test_unnamed_evaluation_labels_must_fit(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1])
    write_parquet(tmp_path / "test.parquet", [0, 2])
    with pytest.raises(
        ValueError, match=r"evaluation data has label 2, which is none of the training data's 2"
    ):
        numbered(tmp_path)
    write_parquet(tmp_path / "test.parquet", [0, 0])
    _, evaluation = numbered(tmp_path)
    assert evaluation.classes == Classes(2)


def test_classes_match_by_name_then_by_count():
    model = ("fire truck", "Dog", "cat")
    assert match_classes(Classes(2, ("cat", "Fire_Truck")), model, 3) == (2, 0)
    assert match_classes(Classes(2, ("dog", "Dog ")), ("dog", "Dog "), 2) == (0, 1)
    assert match_classes(Classes(3, ("a", "b", "c")), None, 3) == (0, 1, 2)
    assert match_classes(Classes(3), model, 3) == (0, 1, 2)
    with pytest.raises(
        ValueError,
        match=r"4 of 5 data classes are unknown.*3 \(fire truck, Dog, cat\): a, b, c, d;",
    ):
        match_classes(Classes(5, ("a", "b", "c", "d", "cat")), model, 3)
    with pytest.raises(ValueError, match=r"several data classes match the model's 'Dog'"):
        match_classes(Classes(2, ("dog", "d-o-g")), model, 3)
    with pytest.raises(ValueError, match=r"the data has 2 classes, the model 3"):
        match_classes(Classes(2, ("dog", "cat")), None, 3)
    with pytest.raises(ValueError, match=r"the data has 5 classes, the model 3"):
        match_classes(Classes(2, None, (0, 4), 5), None, 3)


def test_parquet_files_with_a_training_split_alone_are_nothing_to_evaluate_on(tmp_path):
    table = pa.table({"image": [{"bytes": encoded((1, 0, 0)), "path": None}] * 2, "label": [0, 1]})
    pq.write_table(table, tmp_path / "train-00000.parquet")
    with pytest.raises(ValueError, match="has a train split alone"):
        open_evaluation(str(tmp_path))


def hub_set(root, splits):
    """A data set in the Hugging Face layout, which `datasets` itself opens: labels by split."""
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    datasets.disable_progress_bars()
    for split, labels in splits.items():
        rows = {
            "image": [{"bytes": encoded((i, 0, 0)), "path": None} for i in range(len(labels))],
            "label": labels,
        }
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        table.to_parquet(root / f"{split}-00000-of-00001.parquet")
    return str(root)


@pytest.mark.parametrize("prefix", ["hfds", "hfids"])
def test_hub_names_try_validation_then_test(prefix, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("both", "alone", "unlabelled", "evaluation"):
        (tmp_path / name).mkdir()
    both = hub_set(tmp_path / "both", {"train": [0, 1, 1], "test": [1]})
    train, evaluation = open_data(f"{prefix}/{both}")
    assert train.classes == Classes(2, ("a", "b"))
    assert train.labels.tolist() == [0, 1, 1]
    assert train.image(2).getpixel((0, 0)) == (2, 0, 0)
    assert evaluation.name(0) == f"image 0 of hfds/{both} (test)"
    assert len(open_evaluation(f"{prefix}/{both}")) == 1
    alone = hub_set(tmp_path / "alone", {"train": [0, 1, 1]})
    assert open_data(f"{prefix}/{alone}")[1] is None
    unlabelled = hub_set(tmp_path / "unlabelled", {"train": [-1, -1]})
    with pytest.raises(ValueError, match=r"has no labels; choose a data set and split"):
        open_data(f"{prefix}/{unlabelled}")
    judged = hub_set(tmp_path / "evaluation", {"test": [1]})
    with pytest.raises(ValueError, match=r"has no split 'train'"):
        open_data(f"{prefix}/{judged}")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ImportError("datasets"), ValueError, r"needs the package 'datasets': pip install"),
        (URLError("no route\nto host"), OSError, r"cannot be fetched \(.*no route to host.*\)"),
        (ConnectionError("offline"), OSError, r"cannot be fetched \(offline\); download it"),
        (AssertionError("Unknown torchvision"), ValueError, r"is unknown to timm \(Unknown tor"),
        (AssertionError("Please update"), ValueError, r"cannot be opened \(Please update\)"),
        (FileNotFoundError("gone"), ValueError, r"cannot be opened \(gone\); check its name"),
    ],
)
def test_hosted_data_out_of_reach_ends_in_one_line(error, kind, message, monkeypatch):
    def create(*_, **__):
        raise error

    monkeypatch.setattr("dearkd.data.hosted.create_dataset", create)
    with pytest.raises(kind, match=rf"^data 'hfds/x' {message}") as caught:
        open_data("hfds/x")
    assert "\n" not in str(caught.value)


def test_packed_names_are_a_list_of_names():
    names = ["a/1.png", "", "b/ü 2.png", "\udcff.png", "c"]
    packed = PackedNames(iter(names))
    assert list(packed) == names
    assert len(packed) == 5
    assert packed[-1] == "c"
    assert packed[1:4] == names[1:4]
    assert list(PackedNames([])) == []
    for place in (5, -6):
        with pytest.raises(IndexError):
            packed[place]
