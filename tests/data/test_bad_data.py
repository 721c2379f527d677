"""Data that cannot be read: told in one line from any process, and remembered without growing."""

import errno
import gc
import os
import tarfile
import traceback
import tracemalloc
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import photo_classes
from PIL import Image

from dearkd.data.augment import train_augment
from dearkd.data.datasets import open_data
from dearkd.data.decode import BadImageError
from dearkd.data.hosted import TimmSource
from dearkd.data.loaders import eval_loader, train_loader
from dearkd.data.mixing import Mixing
from dearkd.data.order import EpochOrder, ViewKey
from dearkd.data.sources import Classes, natural_order
from dearkd.data.views import Views
from dearkd.errors import UserError

AUGMENT = train_augment("light", 70, mean=(0.5,) * 3, std=(0.5,) * 3)  # too large to be cached


class OneBad:
    """Eight grey pictures of two classes, the first of which cannot be read."""

    labels = np.arange(8) % 2
    classes = Classes(2)

    def __len__(self):
        return 8

    def image(self, index):
        if index == 0:
            raise BadImageError(self.name(index), "broken")
        return Image.new("RGB", (9, 9), (index, 0, 0))

    def name(self, index):
        return f"grey {index}"


@pytest.mark.parametrize("size", [16, 70])
def test_a_bad_image_met_again_and_again_costs_no_memory(size):
    augment = train_augment("light", size, mean=(0.5,) * 3, std=(0.5,) * 3)
    views = Views(OneBad(), augment)
    depths = []
    for epoch in range(50):
        for error in views[[ViewKey(epoch, 0, 0)]]["errors"]:
            assert str(error) == "cannot decode grey 0 (broken)"
            depths.append(len(list(traceback.walk_tb(error.__traceback__))))
    assert max(depths) == 0
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for epoch in range(500):
        views[[ViewKey(epoch, 0, 0)]]
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000  # the traceback alone took 11,600 bytes a view


def write_parquet(file):
    """Twelve pictures in four row groups, the bytes of each as its own file would have them."""
    rng = np.random.default_rng(0)
    cells = []
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (30, 30, 3), np.uint8)).save(file.with_suffix(".png"))
        cells.append({"bytes": file.with_suffix(".png").read_bytes(), "path": f"{number}.png"})
    file.with_suffix(".png").unlink()
    table = pa.table({"image": cells, "label": [n % 2 for n in range(12)]})
    pq.write_table(table, file, row_group_size=3, compression="snappy")


def overwrite_column(file):
    """Zeroes in the image bytes of every row group, labels and footer left whole."""
    found = pq.ParquetFile(file).metadata
    content = bytearray(file.read_bytes())
    for group in range(found.num_row_groups):
        column = found.row_group(group).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    file.write_bytes(content)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["column", "cut", "gone"])
def test_a_damaged_parquet_file_is_told_in_one_line(tmp_path, workers, damage):
    file = tmp_path / "train.parquet"
    write_parquet(file)
    source, _ = open_data(str(file))
    match damage:
        case "column":
            overwrite_column(file)
        case "cut":
            file.write_bytes(file.read_bytes()[:2000])
        case "gone":
            file.unlink()
    order = EpochOrder(images=12, batch_size=4, seed=0)
    for loader in (
        train_loader(source, AUGMENT, order, workers=workers),
        eval_loader(source, AUGMENT, 4, workers=workers),
    ):
        with pytest.raises(UserError) as caught:
            list(loader.epoch(0))
        assert type(caught.value) is UserError
        message = str(caught.value)
        assert message.startswith(str(file))
        assert message.endswith("; fetch it again or remove it")
        assert "\n" not in message
        loader.close()


def test_damaged_parquet_files_are_told_when_they_are_opened(tmp_path):
    file = tmp_path / "train.parquet"
    write_parquet(file)
    content = file.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    file.write_bytes(content[: -8 - footer] + bytes(footer) + content[-8:])
    with pytest.raises(UserError, match=r"train\.parquet .*; fetch it again or remove it$"):
        open_data(str(file))


class Refusing(OneBad):
    """A source of the user's own that finds a mistake of the user's in its data."""

    def image(self, index):
        raise UserError(f"{self.name(index)[:4]} is no image; fetch it again")


class Buggy(OneBad):
    """A source with a mistake of its own."""

    def image(self, index):
        raise ValueError("shapes do not match")


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_meant_for_the_user_leave_a_worker_as_they_are(workers):
    order = EpochOrder(images=8, batch_size=4, seed=0)
    loader = train_loader(Refusing(), AUGMENT, order, workers=workers)
    with pytest.raises(UserError) as caught:
        list(loader.epoch(0))
    assert (type(caught.value), str(caught.value)) == (
        UserError,
        "grey is no image; fetch it again",
    )
    loader.close()
    loader = train_loader(OneBad(), AUGMENT, order, on_bad_image="fail", workers=workers)
    with pytest.raises(UserError, match=r"^cannot decode grey 0 \(broken\); repair .* skip$"):
        list(loader.epoch(0))
    loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_a_source_keeps_its_traceback(workers):
    order = EpochOrder(images=8, batch_size=4, seed=0)
    loader = train_loader(Buggy(), AUGMENT, order, workers=workers)
    with pytest.raises(ValueError, match="shapes do not match") as caught:
        list(loader.epoch(0))
    assert not isinstance(caught.value, UserError)
    assert "in image" in "".join(traceback.format_exception(caught.value))
    loader.close()


@pytest.mark.parametrize("size", [16, 70])
def test_a_batch_of_bad_images_alone_is_left_out(size):
    """Some networks (Swin) can't take a batch of none."""
    augment = train_augment("light", size, mean=(0.5,) * 3, std=(0.5,) * 3)
    loader = eval_loader(OneBad(), augment, 1)
    assert [batch["index"].tolist() for batch in loader] == [[row] for row in range(1, 8)]
    assert loader.bad_images.found == {"grey 0": "broken"}


BAD_PATHS = {
    "folder": "cats",
    "parent": "..",
    "file as folder": "one.png/two.png",
    "pipe": "pipe.png",
    "device": "/dev/zero",
    "loop": "loop.png",
    "endless": "a" * 5000,
    "null": "a\0b.png",
    "gone": "gone.png",
    "empty": "",
}


@pytest.fixture
def strange_files(tmp_path):
    """A folder with one image and much that is none."""
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    (tmp_path / "cats").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    return tmp_path


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
def test_a_row_whose_path_leads_to_no_file_is_a_bad_image(strange_files, path):
    file = strange_files / "train.parquet"
    cells = [{"bytes": None, "path": name} for name in (path, "one.png")]
    pq.write_table(pa.table({"image": cells, "label": [0, 0]}), file)
    source, _ = open_data(str(file))
    order = EpochOrder(images=2, batch_size=2, seed=0)
    loader = train_loader(source, AUGMENT, order)
    assert [batch["index"].tolist() for batch in loader.epoch(0)] == [[1, 1]]
    assert list(loader.bad_images.found) == [f"row 0 of {file}"]
    failing = train_loader(source, AUGMENT, order, on_bad_image="fail")
    with pytest.raises(UserError, match=r"^cannot decode row 0 of .*; repair .* skip$"):
        list(failing.epoch(0))


def test_a_row_may_name_a_file_outside_of_the_parquet_files_folder(tmp_path):
    (tmp_path / "tables").mkdir()
    Image.new("RGB", (7, 9)).save(tmp_path / "one.png")
    file = tmp_path / "tables" / "train.parquet"
    cells = [{"bytes": None, "path": path} for path in ("../one.png", str(tmp_path / "one.png"))]
    pq.write_table(pa.table({"image": cells, "label": [0, 0]}), file)
    source, _ = open_data(str(file))
    assert [source.image(row).size for row in range(2)] == [(7, 9), (7, 9)]


def test_a_path_that_is_no_text_is_a_bad_image(tmp_path):
    file = tmp_path / "train.parquet"
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
    )
    cells = pa.StructArray.from_arrays([pa.nulls(1, pa.binary()), text], ["bytes", "path"])
    pq.write_table(pa.table({"image": cells, "label": [0]}), file)
    with pytest.raises(BadImageError, match=r"row 0 of .* \(its path is not text\)"):
        open_data(str(file))[0].image(0)


@pytest.mark.parametrize("kind", ["pipe.png", "folder.png"])
def test_what_is_no_file_in_an_image_folder_is_a_bad_image(tmp_path, kind):
    """Opening a pipe would wait for ever."""
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "cat" / "one.png")
    if kind == "pipe.png":
        os.mkfifo(tmp_path / "cat" / kind)
    else:
        (tmp_path / "cat" / kind).touch()
    source, _ = open_data(str(tmp_path))
    if kind == "folder.png":  # it has come to be one since the folder was listed
        (tmp_path / "cat" / kind).unlink()
        (tmp_path / "cat" / kind).mkdir()
    (row,) = (row for row in range(2) if source.name(row).endswith(kind))
    with pytest.raises(BadImageError, match=r"\(not a regular file\)"):
        source.image(row)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": ["a.png"], "label": [0]}, "string in column 'image'; write encoded images"),
        ({"image": [[1, 2]], "label": [0]}, "in column 'image'; write encoded images"),
        ({"image": [{"bytes": "x"}], "label": [0]}, "in column 'image'; write encoded images"),
        ({"image": [{"data": b"x"}], "label": [0]}, "in column 'image'; write encoded images"),
        ({"image": [b"x"], "label": [0.5]}, "double in column 'label'; write labels"),
        ({"image": [b"x"], "label": [[0]]}, "in column 'label'; write labels"),
    ],
)
def test_columns_of_other_types_are_told_when_they_are_opened(tmp_path, columns, words):
    file = tmp_path / "train.parquet"
    pq.write_table(pa.table(columns), file)
    with pytest.raises(UserError, match=f"^{file} has .*{words}"):
        open_data(str(file))


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["b", "a"]).dictionary_encode(),
        pa.array(["b", "a"], pa.large_string()),
        pa.array([True, False]),
        pa.array([1, 0], pa.uint8()),
    ],
)
def test_labels_may_be_any_whole_numbers_or_names(tmp_path, labels):
    pq.write_table(pa.table({"image": [b"x", b"y"], "label": labels}), tmp_path / "a.parquet")
    source, _ = open_data(str(tmp_path / "a.parquet"))
    assert source.labels.tolist() == [1, 0]


@pytest.mark.parametrize("label", [10**12, 2**64 - 1])
def test_ids_are_no_labels(tmp_path, label):
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"image": [b"x", b"y"], "label": pa.array([0, label], pa.uint64())}), file
    )
    message = rf"has label {label}, of at most 999999: .*; number these, or train without labels"
    with pytest.raises(UserError, match=message):
        open_data(str(file))


@pytest.mark.parametrize("twice", ["image", "label"])
def test_a_column_that_is_there_twice_is_told(tmp_path, twice):
    columns = {"image": pa.array([b"x"]), "label": pa.array([0])}
    names = [*columns, twice]
    table = pa.Table.from_arrays([columns[name] for name in names], names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=rf"a\.parquet has several columns '{twice}'; keep one"):
        open_data(str(tmp_path / "a.parquet"))


NUMBER = '{"info": {"features": {"label": {"names": 5}}}}'


@pytest.mark.parametrize(
    "text", ["{", NUMBER, "[]", '{"info": []}', '{"info": {"features": null}}']
)
def test_damaged_metadata_is_told_and_that_of_others_passed_over(tmp_path, text):
    table = pa.table({"image": [b"x"], "label": [0]})
    file = tmp_path / "a.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), file)
    if text in ("{", NUMBER):
        with pytest.raises(UserError, match=r"a\.parquet has damaged metadata .*; fetch it again$"):
            open_data(str(file))
    else:
        assert open_data(str(file))[0].classes == Classes(1)


def test_data_that_is_neither_file_nor_folder_is_told_in_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.parquet")
    for place in ("/dev/null", str(tmp_path / "pipe.parquet")):
        with pytest.raises(UserError, match=r"pass the folder of the images"):
            open_data(place)


@pytest.mark.parametrize("strange", ["label", "shard"])
def test_folders_in_place_of_a_shard_or_a_label_are_told_in_one_line(tmp_path, strange):
    shard = tmp_path / "train-0.tar"
    if strange == "shard":
        shard.mkdir()
    else:
        with tarfile.open(shard, "w") as archive:
            member = tarfile.TarInfo("a.cls")
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
    message = {
        "shard": r"holds no \.tar shards; pass the folder with the shards",
        "label": r"has shards without images; check the folder",  # folders are passed over
    }
    with pytest.raises(UserError, match=message[strange]):
        open_data(f"wds/{tmp_path}")


def test_a_hosted_image_whose_path_is_a_folder_is_a_bad_image(tmp_path):
    class Reader:
        """What timm gives for Hugging Face's sets: an open file and a label, by index."""

        class_to_idx = MappingProxyType({})

        def __getitem__(self, index):
            return (tmp_path if index == 0 else tmp_path / "one.png").open("rb"), 0

        def iter_targets(self):
            return [0, 0]

    class Dataset:
        reader = Reader()

    Image.new("RGB", (7, 9)).save(tmp_path / "one.png")
    source = TimmSource("hfds/toy", Dataset())
    assert source.image(1).size == (7, 9)
    with pytest.raises(BadImageError, match=r"image 0 of hfds/toy \(Is a directory\)"):
        source.image(0)


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_a_view_that_shows_another_image_has_no_number(mixup):
    """Its answer is not kept: the image may be there again tomorrow. Nor is its partner's."""
    order = EpochOrder(images=8, batch_size=8, seed=0)
    loader = train_loader(OneBad(), AUGMENT, order, mixing=Mixing(mixup=mixup, cutmix=0.0))
    for epoch in range(3):
        (batch,) = loader.epoch(epoch)
        place = order.sequence(epoch)[0].tolist().index(0)
        nameless = {place, place ^ 1} if mixup else {place}
        expected = [-1 if p in nameless else 8 * epoch + p for p in range(8)]
        assert batch["view"].tolist() == expected


def test_a_bad_image_is_told_in_one_line_whatever_its_name():
    assert str(BadImageError("c\n/0\r.png", "broken")) == "cannot decode c\\n/0\\r.png (broken)"


def test_names_with_digits_of_any_script_are_sorted():
    assert natural_order(["img10", "img2", "img²", "img٣"]) == ["img2", "img٣", "img10", "img²"]


@pytest.mark.parametrize("names", [("a", "A"), ("A", "a"), ("1", "01"), ("01", "1")])
def test_names_that_differ_in_case_or_zeros_alone_have_one_order(names):
    """They come from sets, whose order differs from process to process."""
    assert natural_order(names) == sorted(names)


def test_a_folder_that_can_not_be_read_is_told(tmp_path, monkeypatch):
    """Whoever runs the tests as root may read all."""
    photo_classes(tmp_path, 2)
    (tmp_path / "1" / "closed").mkdir(parents=True)
    look = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"closed cannot be read \(Permission denied\); check its"):
        open_data(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "own"), [("distill.yaml", r", as '.*/round-\*/set'"), ("metrics.jsonl", "")]
)
def test_the_folder_of_a_run_holds_no_images(tmp_path, file, own):
    """That of dearkd distill would be one of classes called round-1 and checkpoint."""
    photo_classes(tmp_path / "round-1" / "set", 2)
    (tmp_path / file).touch()
    with pytest.raises(UserError, match=rf"of a run, not of images; name images{own}$"):
        open_data(str(tmp_path))
    assert len(open_data(str(tmp_path / "round-1" / "set"))[0]) == 2
