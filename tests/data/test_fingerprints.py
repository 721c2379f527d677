"""What tells data from other data: the same wherever it lies, another for other images."""

import io
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dearkd.data.datasets import open_data, subset
from dearkd.data.sources import ImageSource, SubsetSource


def folder_of_images(root, names=("a/1.png", "a/2.png", "b/1.png")):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, dtype=np.uint8)).save(root / name)
    return root


def fingerprint(data):
    source = open_data(str(data))[0]
    assert isinstance(source, ImageSource)
    return source.fingerprint()


def test_a_folder_is_the_same_elsewhere_and_another_with_other_files(tmp_path):
    first = folder_of_images(tmp_path / "first")
    found = fingerprint(first)
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    assert fingerprint(copy) == found
    (copy / "a" / "2.png").rename(copy / "a" / "3.png")
    assert fingerprint(copy) != found
    (copy / "a" / "3.png").rename(copy / "a" / "2.png")
    assert fingerprint(copy) == found
    with (copy / "b" / "1.png").open("ab") as file:
        file.write(b"x")
    assert fingerprint(copy) != found
    (first / "a" / "2.png").unlink()
    assert fingerprint(first) != found


def write_parquet(path, count):
    cells = []
    for number in range(count):
        content = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), number, dtype=np.uint8)).save(content, "png")
        cells.append(content.getvalue())
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": cells, "label": [n % 2 for n in range(count)]}), path)
    return path.parent


def test_parquet_goes_by_names_sizes_and_row_groups(tmp_path):
    one, same, more = (
        write_parquet(tmp_path / name / "x.parquet", count)
        for name, count in (("one", 4), ("same", 4), ("more", 6))
    )
    assert fingerprint(one) == fingerprint(same) != fingerprint(more)


def test_shards_go_by_their_members(tmp_path):
    found = []
    for name, count in (("one", 4), ("same", 4), ("more", 6)):
        root = folder_of_images(tmp_path / "images", [f"{n}.png" for n in range(count)])
        (tmp_path / name).mkdir()
        with tarfile.open(tmp_path / name / "train-0.tar", "w") as archive:
            for number in range(count):
                archive.add(root / f"{number}.png", f"{number}.png")
                member = tarfile.TarInfo(f"{number}.cls")
                member.size = 1
                archive.addfile(member, io.BytesIO(b"1"))
        found.append(fingerprint(f"wds/{tmp_path / name}"))
    assert found[0] == found[1] != found[2]


def test_a_part_is_not_the_whole(tmp_path):
    digits = open_data("digits")[0]
    parts = [subset(digits, share).fingerprint() for share in (1.0, 0.5, 0.4)]
    assert len({*parts, open_data("digits")[1].fingerprint()}) == 4
    assert subset(digits, 0.5).fingerprint() == parts[1]


def test_labels_numbered_anew_make_no_other_images():
    """A study's arms are judged on the same images, however their own classes are numbered."""
    digits = open_data("digits")[1]
    rows, other = np.arange(len(digits)), list(range(10))[::-1]
    assert SubsetSource(digits, rows, new_labels=other).fingerprint() == digits.fingerprint()
    for order in (rows[::-1], rows[:-1]):
        assert SubsetSource(digits, order).fingerprint() != digits.fingerprint()
