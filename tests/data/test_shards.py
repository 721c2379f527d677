"""Tar shards and parquet row groups: read where they lie, shuffled by shard, resumed exactly."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import numbered, quiet_train
from PIL import Image

from dearkd.config import load_config
from dearkd.data import parquet
from dearkd.data.datasets import open_data, open_evaluation, subset
from dearkd.data.folders import FolderSource
from dearkd.data.order import EpochOrder, Shards, ranked
from dearkd.data.parquet import ParquetSource
from dearkd.data.sources import shards_of
from dearkd.data.splits import matching_files
from dearkd.data.tars import TarSource
from dearkd.errors import MissingFileError, UserError
from dearkd.run_folder.folder import RunFolder
from dearkd.training import train as launch
from dearkd.training.progress import RunProgress


def png(level, size=(20, 18)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def add(archive, name, content, **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def write_tar(file, labels, first=0, form=tarfile.PAX_FORMAT, key="{:05d}", **fields):
    """One picture a label, whose grey level is its number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=form) as archive:
        for number, label in enumerate(labels, first):
            add(archive, f"{key.format(number)}.png", png(number), **fields)
            add(archive, f"{key.format(number)}.cls", str(label).encode(), **fields)
    return file


def write_parquet(file, count, group=4):
    cells = [{"bytes": png(number), "path": None} for number in range(count)]
    table = pa.table({"image": cells, "label": [number % 2 for number in range(count)]})
    pq.write_table(table, file, row_group_size=group)
    return file


def level(source, index):
    return source.image(index).getpixel((0, 0))[0]


# --- tars ---


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("depth", [1, 40])
def test_members_are_found_in_every_tar_format(tmp_path, form, depth):
    key = "d1234/" * depth + "{:05d}"  # 40 folders: longer than the 100 letters of a header
    file = write_tar(tmp_path / "a.tar", [1, 0, 1], 7, form, key=key, mtime=1.5)
    with tarfile.open(file) as archive:
        expected = [m.name for m in archive if m.name.endswith(".png")]
        source = TarSource([file])
        assert [source.name(n).removesuffix(f" in {file}") for n in range(3)] == expected
    assert [level(source, n) for n in range(3)] == [7, 8, 9]
    assert source.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("length", [b"0", b"-9", b"1", b"x"])
def test_an_extended_header_of_a_wrong_length_is_damage(tmp_path, length):
    """A record that is not longer than its own length would be read for ever."""
    file = write_tar(tmp_path / "a.tar", [1, 0], form=tarfile.PAX_FORMAT, mtime=1.5)
    content = file.read_bytes()
    at = content.index(b" mtime=") - 2  # two digits
    file.write_bytes(content[:at] + length.rjust(2, b"0") + content[at + 2 :])
    with pytest.raises(UserError, match=r"a\.tar is no webdataset shard"):
        TarSource([file])


def test_what_is_no_file_is_passed_over_and_nothing_is_unpacked(tmp_path):
    file = tmp_path / "set" / "a.tar"
    file.parent.mkdir()
    with tarfile.open(file, "w") as archive:
        add(archive, "folder", b"", type=tarfile.DIRTYPE)
        add(archive, "../../escape.png", png(1))
        add(archive, "../../escape.cls", b"0")
        add(archive, "/absolute.png", png(2))
        add(archive, "/absolute.json", json.dumps({"label": 1}).encode())
        add(archive, "link.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "notes.txt", b"hello")
    source, _ = open_data(str(file))
    assert [level(source, n) for n in range(len(source))] == [1, 2]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_folder_of_shards_needs_no_prefix(tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"in-train-{number:02}.tar", [0, 1], 10 * number)
    write_tar(tmp_path / "in-val-00.tar", [1], 99)
    (tmp_path / "info.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "0.png").write_bytes(png(0))
    for data in (str(tmp_path), f"wds/{tmp_path}"):
        train, evaluation = open_data(data)
        assert [level(train, n) for n in range(6)] == [0, 1, 10, 11, 20, 21]
        assert train.classes.names == evaluation.classes.names == ("cat", "dog")
        assert level(evaluation, 0) == 99
        assert train.shards.starts.tolist() == [0, 2, 4]
    assert level(open_evaluation(str(tmp_path)), 0) == 99


def test_files_of_no_split_beside_those_of_one_are_told(tmp_path):
    """They were left out without a word."""
    write_tar(tmp_path / "tars" / "in-train-0.tar", [0, 1])
    write_tar(tmp_path / "tars" / "in-val-0.tar", [0, 1])
    for number in range(7):
        write_tar(tmp_path / "tars" / f"extra-{number}.tar", [0, 1])
    (tmp_path / "rows").mkdir()
    for name in ("val/0.parquet", "part/0.parquet"):
        (tmp_path / "rows" / name).parent.mkdir()
        write_parquet(tmp_path / "rows" / name, 4)
    shown = ", ".join(f"extra-{number}.tar" for number in range(5))
    for folder, told in (
        ("tars", rf"tars has .* \(in-train-0\.tar\) beside files of none \({shown} and 2 more\)"),
        ("rows", r"rows has files of a split \(val/0\.parquet\) beside files of none \(part/0\."),
    ):
        with pytest.raises(UserError, match=f"{told}.*; put train, val or test into their names"):
            open_data(str(tmp_path / folder))
        assert len(open_evaluation(str(tmp_path / folder))) in (2, 4)
    assert len(open_data(str(tmp_path / "tars" / "in-train-*.tar"))[0]) == 2


def test_shards_in_folders_of_their_split(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", ["dog", "cat"], 0)
    write_tar(tmp_path / "val" / "0.tar", ["dog"], 5)
    train, evaluation = numbered(tmp_path)
    assert train.classes.names == ("cat", "dog")
    assert train.labels.tolist() == [1, 0]
    assert evaluation.labels.tolist() == [1]  # numbered as the training classes
    (tmp_path / "info.json").write_text(json.dumps({"classes": ["dog", "cat", "cow"]}))
    assert open_data(str(tmp_path))[0].labels.tolist() == [0, 1]


def test_names_of_classes_are_text(tmp_path):
    write_tar(tmp_path / "0.tar", [0, 1])
    (tmp_path / "info.json").write_text(json.dumps({"classes": [7, 9]}))
    assert open_data(str(tmp_path))[0].classes.names == ("7", "9")


def test_image_folders_may_lie_beside_the_tar_that_they_came_from(tmp_path):
    for name in ("train/cat", "train/dog", "val/cat"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes(png(3))
    (tmp_path / "ILSVRC_train.tar").write_bytes(b"no shard")
    train, evaluation = open_data(str(tmp_path))
    assert (len(train), len(evaluation)) == (2, 1)
    (tmp_path / "train" / "cat" / "stray.tar").write_bytes(b"no shard")
    assert len(open_data(str(tmp_path / "train"))[0]) == 2


def test_files_and_patterns_name_shards(tmp_path, monkeypatch):
    for number in range(12):
        write_tar(tmp_path / f"train-{number:03}.tar", [0, 1], 2 * number)
    one, _ = open_data(str(tmp_path / "train-003.tar"))
    assert [level(one, n) for n in range(2)] == [6, 7]
    counted, none = open_data(str(tmp_path / "train-{008..011}.tar"), str(tmp_path / "*-000.tar"))
    assert [level(counted, n) for n in range(8)] == [*range(16, 24)]
    assert [level(none, n) for n in range(2)] == [0, 1]
    assert len(open_data(str(tmp_path / "train-00?.tar"))[0]) == 20
    assert [file.name for file in matching_files("{1..2}-{08..10}.tar")] == [
        *("1-08.tar", "1-09.tar", "1-10.tar", "2-08.tar", "2-09.tar", "2-10.tar"),
    ]
    with pytest.raises(MissingFileError, match=r"names .*train-012\.tar, which is not there"):
        open_data(str(tmp_path / "train-{010..012}.tar"))
    with pytest.raises(UserError, match=r"stands for 1,000,000 files, at most 100,000 are allowed"):
        matching_files("x{0..999}{000..999}.tar")
    with pytest.raises(MissingFileError, match=r"x\*\.tar' matches no file; correct the pattern"):
        open_data(str(tmp_path / "x*.tar"))


@pytest.mark.parametrize("keep", [1.0, 0.97, 0.5, 0.013])
def test_a_shard_that_is_cut_off_is_told(tmp_path, keep):
    file = write_tar(tmp_path / "a.tar", range(20))
    content = file.read_bytes()
    end = content.rstrip(b"\0")
    cut = int(keep * len(end)) // 7 * 7 + 3
    if keep < 1:
        file.write_bytes(content[:cut])
        with pytest.raises(UserError, match=r"a\.tar is no webdataset shard|has no \.cls or"):
            TarSource([file])
    else:
        file.write_bytes(content[: -(-len(end) // 512) * 512])  # without its end marker
        assert len(TarSource([file])) == 20


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    file = write_tar(tmp_path / "a.tar", range(6), form=tarfile.USTAR_FORMAT)
    with tarfile.open(file) as archive:
        header = archive.getmembers()[6].offset
    content = bytearray(file.read_bytes())
    content[header + 20] ^= 255
    file.write_bytes(content)
    with tarfile.open(file) as archive:
        assert len(archive.getmembers()) == 6  # half of the images, without a word
    with pytest.raises(UserError, match=rf"byte {header} begins no member of a tar\); fetch it"):
        TarSource([file])


def test_names_of_classes_that_can_not_be_read_are_told(tmp_path):
    write_tar(tmp_path / "0.tar", [0, 1])
    for content in ("[1]", '{"classes": "ab"}', "[" * 100_000):
        (tmp_path / "info.json").write_text(content)
        with pytest.raises(UserError, match=r"info\.json is damaged \(.*\); repair or remove it$"):
            open_data(str(tmp_path))


def test_labels_that_are_no_class_are_told(tmp_path):
    (tmp_path / "info.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    for label, message in (
        ("2", r"has label 2, outside 0\.\.1"),
        ("-1", r"has label -1, outside 0\.\.1"),
        ("cow", r"has label cow, outside 0\.\.1"),
        ("", r"00000\.cls in .*a\.tar has label '', neither a whole number nor a name; correct"),
    ):
        write_tar(tmp_path / "a.tar", [label])
        with pytest.raises(UserError, match=message):
            open_data(str(tmp_path))
    (tmp_path / "info.json").unlink()
    for label, message in (
        (1.7, r"0\.json in .*a\.tar has label 1\.7, neither a whole number nor a name"),
        ([1], r"has label \[1\], neither"),
        (2**70, r"has label 1180591620717411303424, of at most 999999"),
        (None, r"0\.png in .*a\.tar has no \.cls or \.json label; add one"),
    ):
        fields = json.dumps({"caption": "a cow", "label": label}).encode()
        pack(tmp_path / "a.tar", {"0.png": png(1), "0.json": fields})
        with pytest.raises(UserError, match=message):
            open_data(str(tmp_path))


def test_a_label_that_can_not_be_read_is_told_with_its_member(tmp_path):
    for name, content, reason in (
        ("a/0.cls", b"\xff", "'utf-8' codec can't decode byte 0xff in position 0.*"),
        ("a/0.cls", b"9" * 5000, r"Exceeds the limit \(4300 digits\).*"),
        ("a/0.json", b'{"label": 1', "Expecting ',' delimiter.*"),
        ("a/0.json", b"[" * 100_000, "its lists or mappings are nested too deeply"),
    ):
        pack(tmp_path / "a.tar", {"a/0.png": png(1), name: content})
        with pytest.raises(UserError, match=rf"^{name} in .*a\.tar is damaged \({reason}\); cor"):
            open_data(str(tmp_path))
        assert len(open_data(str(tmp_path), labels="none")[0]) == 1


def pack(file, members):
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            add(archive, name, content)


def test_a_json_without_a_label_leaves_it_to_the_cls(tmp_path):
    for number, fields in enumerate(({"caption": "a cow"}, [1], {"label": 2.0})):
        members = {"0.json": json.dumps(fields).encode(), "0.cls": b"1", "0.png": png(1)}
        pack(tmp_path / f"{number}.tar", members)
    assert open_data(str(tmp_path))[0].labels.tolist() == [1, 1, 2]


def test_of_several_images_of_a_key_the_photo_is_the_sample(tmp_path):
    """A mask beside it is left out, whatever comes first."""
    photo, mask, label = png(1), png(2), b"0"
    members = [("0.jpg", photo), ("0.png", mask), ("0.cls", label), ("0.seg.png", mask)]
    file = tmp_path / "a.tar"
    for order in (members, members[::-1]):
        pack(file, dict(order))
        source = TarSource([file])
        assert [level(source, n) for n in range(len(source))] == [1]
    pack(file, {"0.jpg": photo, "0.JPG": mask, "0.cls": label})
    with pytest.raises(UserError, match=r"has two images of one key: 0\.jpg and 0\.JPG; rename"):
        TarSource([file])


def test_a_key_ends_at_the_first_dot(tmp_path):
    file = tmp_path / "a.tar"
    pack(file, {"0.png": png(1), "0.cls": b"0", "._0.png": b"of macOS", ".0.png": b"hidden"})
    assert len(TarSource([file])) == 1
    pack(file, {"0.png": png(1), "0.cls": b"0", "1.v2.png": png(2), "1.v2.cls": b"1"})
    with pytest.raises(UserError, match=r"1\.v2\.png in .*a\.tar would be left out, .*; rename"):
        TarSource([file])


# --- order ---


def test_an_epoch_by_shards_is_a_permutation_of_few_shards_at_a_time():
    starts = np.array([0, 10, 13, 40, 60, 61, 80])
    shards = Shards(starts, together=2)
    order = EpochOrder(images=100, batch_size=4, seed=1, shards=shards)
    index, _ = order.sequence(0)
    assert sorted(index) == list(range(100))
    of = np.searchsorted(starts, index, side="right") - 1
    seen, open_now = set(), []
    for shard in of.tolist():  # at most two are open at once, and none is opened again
        if shard not in open_now:
            assert shard not in seen
            seen.add(shard)
            open_now = [s for s in open_now if s in of[np.flatnonzero(of == shard)[0] :]]
            open_now.append(shard)
            assert len(open_now) <= 2
    assert index.tolist() != order.sequence(1)[0].tolist()
    early = [
        set(np.searchsorted(starts, order.sequence(epoch)[0][:40], "right").tolist())
        for epoch in range(60)
    ]
    assert all(len(shards) < len(starts) for shards in early)
    assert len(set.union(*early)) == len(starts)  # every shard comes early some time


def test_all_shards_together_are_the_plain_shuffle():
    shards = Shards(np.array([0, 30, 50]), together=3)
    assert shards.ranked(100, 1, 2).tolist() == ranked(100, 1, 2).tolist()


@pytest.mark.parametrize("repeats", [1, 3])
def test_batch_size_and_processes_do_not_change_the_order_by_shards(repeats):
    def keys(batch_size, start=0, world=1):
        orders = [
            EpochOrder(
                images=48,
                batch_size=batch_size,
                seed=0,
                repeats=repeats,
                shards=Shards(np.arange(0, 48, 6), 2),
                rank=rank,
                world=world,
            )
            for rank in range(world)
        ]
        steps = zip(*(order.batches(2, start) for order in orders), strict=True)
        return [key for step in steps for part in step for key in part]

    assert keys(48) == keys(8) == keys(8, world=2)
    assert keys(8, start=4) == keys(48)[32:]


def test_a_part_of_the_data_keeps_its_shards(tmp_path):
    files = [write_tar(tmp_path / f"{n}.tar", [0, 1] * 5, 10 * n) for n in range(4)]
    whole = TarSource(files)
    part = subset(whole, 0.3)
    shards = shards_of(part)
    for first, last in zip(shards.starts, [*shards.starts[1:], len(part)], strict=True):
        assert len({part.name(n).split(" in ")[1] for n in range(first, last)}) == 1
    assert shards_of(FolderSource(folder_of(tmp_path / "images"))) is None


def folder_of(root):
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "0.png").write_bytes(png(0))
    return root


# --- parquet ---


def test_parquet_is_read_few_row_groups_at_a_time(tmp_path, monkeypatch):
    file = write_parquet(tmp_path / "a.parquet", 40, group=4)
    whole = ParquetSource([file])
    assert not whole.shards.needed
    size = sum(parquet._group_sizes(file, "image"))
    monkeypatch.setattr(parquet, "_MEMORY_LIMIT", int(size * 0.45))
    source = ParquetSource([file])
    assert source.shards.needed
    assert source.shards.together == 4
    assert source.shards.starts.tolist() == list(range(0, 40, 4))
    read, most = [], 0
    rows = parquet._rows
    monkeypatch.setattr(parquet, "_rows", lambda *a: read.append(a[2]) or rows(*a))
    order = EpochOrder(images=40, batch_size=4, seed=0, shards=source.shards)
    for index in order.sequence(0)[0].tolist():
        assert level(source, index) == index
        most = max(most, source._bytes)
    assert sorted(read) == list(range(10))  # each of them once
    assert most <= size * 0.45


# --- the program ---


class Killed(BaseException):
    """As sudden as kill -9."""


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for number in range(4):
        write_tar(root / "tars" / f"train-{number}.tar", [0, 1] * 3, 6 * number)
    write_parquet(root / "a.parquet", 24)
    return {"tars": root / "tars", "parquet": root / "a.parquet"}


def settings(data, folder, shuffle="shards"):
    options = {"method": "ce", "student": "toy_student", "stage1": 2, "stage2": 0}
    options |= {"data": {"train": str(data)}, "out": str(folder)}
    return options, ["data.batch_size=4", "data.augment=deit", f"data.shuffle={shuffle}"]


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_a_killed_run_on_shards_ends_as_one_that_was_not(kind, sets, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_MEMORY_LIMIT", 1000)  # two row groups
    monkeypatch.setattr("dearkd.data.tars.TOGETHER", 2)
    options, given = settings(sets[kind], tmp_path / "whole")
    quiet_train(options, given)
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    options, given = settings(sets[kind], tmp_path / "killed")
    count = 0

    def step(self, *_):
        nonlocal count
        count += 1
        if count == 9:  # in the middle of the second epoch
            raise Killed

    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr(RunProgress, "step", step)
        quiet_train(options, [*given, "checkpoint_minutes=1e-9"])
    run = RunFolder(tmp_path / "killed")
    config = run.read_config()
    assert config.data.shuffle == "shards"
    console = launch.Console(file=io.StringIO())
    launch.train(config, console=console, folder=run, resume=True)
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == whole
    options, given = settings(sets[kind], tmp_path / "images", "images")
    quiet_train(options, given)
    assert (tmp_path / "images" / "model.safetensors").read_bytes() != whole


def test_the_order_follows_from_the_size_of_the_data_and_is_stored(sets, tmp_path, monkeypatch):
    for kind, limit, chosen in (
        ("tars", 1, "images"),
        ("parquet", 1 << 30, "images"),
        ("parquet", 3000, "shards"),
    ):
        monkeypatch.setattr(parquet, "_MEMORY_LIMIT", limit)
        folder = tmp_path / f"{kind}-{limit}"
        quiet_train(*settings(sets[kind], folder, "auto"))
        assert load_config(folder / "config.yaml").data.shuffle == chosen


def test_an_order_by_shards_without_shards_is_refused(sets, tmp_path):
    for data, few in (("digits", "many"), (sets["tars"], "more than 16")):
        message = (
            rf"data\.shuffle=shards has no effect on .* lie in {few} tar files.*; leave it out"
        )
        with pytest.raises(UserError, match=message):
            quiet_train(*settings(data, tmp_path / "run"))


def test_patterns_are_stored_with_absolute_paths(sets, tmp_path, monkeypatch):
    monkeypatch.chdir(sets["tars"])
    for number, data in enumerate(("train-{0..2}.tar", "wds/../tars")):
        quiet_train(*settings(data, tmp_path / str(number), "auto"))
        stored = load_config(tmp_path / str(number) / "config.yaml").data.train
        assert Path(stored.removeprefix("wds/")).is_absolute()
        assert str(sets["tars"]) in stored
    assert os.listdir(sets["tars"])  # noqa: PTH208


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("long", [False, True])
def test_names_of_another_coding_are_read(tmp_path, form, long):
    """Those of Latin-1, say, as many a program packs them."""
    folder = "caf\udce9" * (30 if long else 1)
    with tarfile.open(tmp_path / "a.tar", "w", format=form, encoding="utf-8") as archive:
        add(archive, f"{folder}/0.png", png(7))
        add(archive, f"{folder}/0.cls", b"0")
    source, _ = open_data(str(tmp_path))
    assert level(source, 0) == 7
    assert source.name(0).startswith("caf\ufffd")


def test_parquet_names_of_another_coding_get_one_line(tmp_path):
    file, names = tmp_path / "a.parquet", pa.array([b"caf\xe9"], pa.binary())
    names = pa.Array.from_buffers(pa.string(), 1, names.buffers())
    pq.write_table(pa.table({"image": [png(1)], "label": names}), file)
    with pytest.raises(UserError, match=r"a\.parquet is damaged"):
        open_data(str(file))
    assert len(open_data(str(file), labels="none")[0]) == 1
    file.write_bytes(file.read_bytes().replace(b"label", b"lab\xe9l"))
    with pytest.raises(UserError, match=r"a\.parquet is damaged \('utf-8' codec"):
        open_data(str(file))


def test_a_parquet_column_may_have_no_name(tmp_path):
    pq.write_table(pa.table({"": [3], "image": [png(1)], "label": [0]}), tmp_path / "a.parquet")
    assert len(open_data(str(tmp_path))[0]) == 1
