"""Data that cannot be read: told in one line from any process, and remembered without growing."""

import gc
import traceback
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dearkd.data.augment import train_augment
from dearkd.data.datasets import open_data
from dearkd.data.decode import BadImageError
from dearkd.data.loaders import eval_loader, train_loader
from dearkd.data.order import EpochOrder, ViewKey
from dearkd.data.sources import Classes
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
