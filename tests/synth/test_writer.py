import errno
import io
import json
import os
import stat

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from synth.contact_sheet import contact_sheet, preview_grid
from synth.groups import Group
from synth.image_files import pixel_hash, read_image
from synth.writer import Writer, class_folders

GROUP = Group(id=12, targets=(0, 0, 2, 2))


@pytest.fixture
def pixels():
    return torch.randint(256, (4, 3, 9, 9), dtype=torch.uint8)


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_images_come_back_to_the_last_bit(tmp_path, pixels, image_format):
    writer = Writer(tmp_path, ("a", "b", "c"), image_format)
    names = writer.write_images(GROUP, pixels)
    assert names[1] == f"a/000012_001.{image_format}"
    assert names[2] == f"c/000012_000.{image_format}"
    assert torch.equal(writer.read_images(GROUP), pixels)
    with Image.open(tmp_path / names[0]) as picture:
        assert (picture.format, picture.mode) == (image_format.upper(), "RGB")


def test_a_parquet_file_holds_a_group_in_hugging_faces_layout(tmp_path, pixels):
    names = ("crane, bird", "b", "c")
    writer = Writer(tmp_path, class_folders(names, 3), "parquet", names)
    written = writer.write_images(GROUP, pixels)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["train-000012.parquet"]
    assert torch.equal(writer.read_images(GROUP), pixels)
    assert torch.equal(writer.read_images(GROUP, 2), pixels[2:])
    file = tmp_path / writer.shard(GROUP)
    rows = pq.read_table(file).to_pylist()
    assert [row["label"] for row in rows] == [0, 0, 2, 2]
    assert [row["image"]["path"] for row in rows] == written
    with Image.open(io.BytesIO(rows[0]["image"]["bytes"])) as picture:
        assert picture.format == "PNG"
    inode = file.stat().st_ino
    leftover = file.with_name(f".{file.name}.abc123.tmp")
    leftover.write_bytes(b"half a file")
    writer.write_images(GROUP, pixels)
    assert file.stat().st_ino == inode and not leftover.exists()


def test_a_full_disk_leaves_no_half_file(tmp_path, pixels, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Writer(tmp_path, ("a", "b", "c"), "png").write_images(GROUP, pixels)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_grey_images(tmp_path):
    pixels = torch.randint(256, (4, 1, 9, 9), dtype=torch.uint8)
    writer = Writer(tmp_path, ("a", "b", "c"), "png")
    writer.write_images(GROUP, pixels)
    assert torch.equal(writer.read_images(GROUP), pixels)


def test_a_finished_file_is_not_written_again_and_leftovers_go(tmp_path, pixels):
    writer = Writer(tmp_path, ("a", "b", "c"), "png")
    names = writer.write_images(GROUP, pixels)
    first, second = tmp_path / names[0], tmp_path / names[1]
    inode = first.stat().st_ino
    second.unlink()
    leftover = second.with_name(f".{second.name}.abc123.tmp")
    leftover.write_bytes(b"half an image")
    writer.write_images(GROUP, pixels)
    assert first.stat().st_ino == inode
    assert torch.equal(read_image(second), pixels[1]) and not leftover.exists()


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, pixels, umask, mode):
    before = os.umask(umask)
    try:
        writer = Writer(tmp_path / "new", ("a", "b", "c"), "png")
        writer.agree({"seed": 1})
        writer.write_images(GROUP, pixels)
        writer.write_part(GROUP, {"group": 12})
    finally:
        os.umask(before)
    files = [file for file in writer.out.rglob("*") if file.is_file()]
    assert len(files) == 6
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {mode}


def test_settings_are_those_of_whoever_was_first(tmp_path):
    writer = Writer(tmp_path / "new", ("a",), "png")
    assert writer.settings() is None
    assert writer.agree({"seed": 1}) == {"seed": 1}
    assert writer.agree({"seed": 2}) == {"seed": 1} == writer.settings()
    assert [path.name for path in writer.out.iterdir()] == ["settings.json"]


@pytest.mark.parametrize("kind", [errno.EPERM, errno.ENOTSUP])
def test_settings_are_agreed_on_where_a_disk_has_no_hard_links(tmp_path, monkeypatch, kind):
    def refuse(source, target):
        raise OSError(kind, os.strerror(kind))

    monkeypatch.setattr(os, "link", refuse)
    writer = Writer(tmp_path, ("a",), "png")
    assert writer.agree({"seed": 1}) == {"seed": 1}
    assert writer.agree({"seed": 2}) == {"seed": 1}
    assert [path.name for path in writer.out.iterdir()] == ["settings.json"]


def test_a_group_is_finished_when_its_part_is_there(tmp_path, pixels):
    writer = Writer(tmp_path, ("a", "b", "c"), "png")
    writer.write_images(GROUP, pixels)
    assert not writer.is_finished(GROUP)
    part = {"group": 12, "terms": {}, "images": [], "curve": [], "seconds": 1.0}
    writer.write_part(GROUP, part)
    assert writer.is_finished(GROUP) and writer.parts([GROUP]) == [part]
    assert json.loads((tmp_path / ".parts/group_000012.json").read_text()) == part


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("airplane", "n01440764"), ("airplane", "n01440764")),
        (None, ("00000", "00001")),
        (("a/b", "c"), ("00000", "00001")),
        (("..", "c"), ("00000", "00001")),
        (("cat", "test"), ("00000", "00001")),
        (("Cat", "cat"), ("00000", "00001")),
        (("crane, bird", "c"), ("00000", "00001")),
    ],
)
def test_class_folders(names, folders):
    assert class_folders(names, 2) == folders


def test_pixel_hash_sees_values_and_shape(pixels):
    image = pixels[0]
    assert pixel_hash(image) == pixel_hash(image.clone())
    assert pixel_hash(image) != pixel_hash(image.view(3, 27, 3))
    other = image.clone()
    other[0, 0, 0] ^= 1
    assert pixel_hash(image) != pixel_hash(other)


def test_pictures_hold_every_image(pixels):
    grid = preview_grid(pixels, columns=2)
    assert grid.size == (2 * 101, 2 * 101)  # 9 px eleven times enlarged, and 2 px of gap
    assert grid.getpixel((101, 0)) == tuple(pixels[1, :, 0, 0].tolist())
    sheet = contact_sheet({"0 cat": list(pixels[:3]), "1 dog": list(pixels[3:])})
    assert sheet.size == (120 + 3 * 101, 2 * 101)
    assert sheet.getpixel((120, 101)) == tuple(pixels[3, :, 0, 0].tolist())
    big = torch.full((1, 1, 224, 224), 7, dtype=torch.uint8)
    assert preview_grid(big, columns=1).getpixel((50, 50)) == (7, 7, 7)


def test_a_file_that_is_replaced_leaves_nothing_of_a_killed_process(tmp_path):
    writer = Writer(tmp_path, ("a", "b", "c"), "png")
    leftover = tmp_path / ".preview.png.abc123.tmp"
    leftover.write_bytes(b"half a picture")
    writer.write_picture("preview.png", Image.new("RGB", (4, 4)))
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["preview.png"]


def test_of_two_processes_that_replace_a_file_at_once_both_do(tmp_path, monkeypatch):
    """As when both merge the set: each takes the other's unfinished file for a dead process's."""
    writer, sync = Writer(tmp_path, ("a", "b", "c"), "png"), os.fsync

    def meanwhile(handle):
        monkeypatch.setattr(os, "fsync", sync)
        writer.write_json("manifest.json", {"by": "the other"})
        sync(handle)

    monkeypatch.setattr(os, "fsync", meanwhile)
    writer.write_json("manifest.json", {"by": "this one"})
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"by": "this one"}
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]
