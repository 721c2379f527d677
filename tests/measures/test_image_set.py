"""Which images are measured, at which size, and what happens to unreadable ones."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from dearkd.data.loaders import BadImages
from dearkd.measures.image_set import ImageSet, choose_size, newest_set, open_set
from dearkd.measures.set_measures import Features, feature_diversity


def make_set(root, sizes, count=3, seed=0):
    """A folder a class; ``sizes`` gives the images' width and height by class."""
    generator = np.random.default_rng(seed)
    for name, (width, height) in sizes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def open_all(root):
    return open_set(str(root), None, 0)


def test_pixels_are_those_of_the_file_between_zero_and_one(tmp_path):
    source = open_all(make_set(tmp_path, {"a": (70, 70), "b": (70, 70)}))
    assert choose_size(source, None, print)[0] == 70
    images = ImageSet(source, 70, BadImages())
    batches = images.batches(2)
    assert batches == {"a": [(0, 1), (2,)], "b": [(3, 4), (5,)]}
    for row, pixels in zip((3, 4), images.pixels((3, 4)), strict=True):
        expected = torch.from_numpy(np.array(source.image(row))).permute(2, 0, 1) / 255
        assert torch.allclose(pixels, expected, atol=1e-7)


@pytest.mark.parametrize("size", [32, 96])
def test_other_sizes_are_resized_by_the_shorter_side_and_cut_in_the_centre(tmp_path, size):
    make_set(tmp_path, {"a": (2 * size, size)}, count=1)
    wide = Image.new("RGB", (4 * size, 2 * size), "black")
    wide.paste("white", (size, 0, 3 * size, 2 * size))  # the centre square
    wide.save(tmp_path / "a" / "0.png")
    images = ImageSet(open_all(tmp_path), size, BadImages())
    assert images.pixels((0,)).mean() > 0.95


@pytest.mark.parametrize(
    ("sizes", "expected", "words"),
    [
        ({"a": (40, 40), "b": (40, 40)}, 40, "as they are, 40 px"),
        ({"a": (8, 8)}, 64, "images of 8 px enlarged to 64"),
        ({"a": (1, 1)}, 64, "images of 1 px enlarged"),
        ({"a": (40, 40), "b": (41, 40)}, 224, "different sizes (40 x 40, 41 x 40)"),
        ({"a": (50, 40)}, 224, "are not square (50 x 40)"),
    ],
)
def test_the_size_is_chosen_and_said(tmp_path, sizes, expected, words):
    source = open_all(make_set(tmp_path, sizes, count=1))
    size, said = choose_size(source, None, print)
    assert size == expected
    assert words in said
    assert choose_size(source, 48, print)[0] == 48
    with pytest.raises(ValueError, match="--img-size must be at least 32 for LPIPS, got 31"):
        choose_size(source, 31, print)


def test_a_limit_takes_as_many_of_every_class_and_depends_on_the_seed():
    whole, some, fewer, other = (
        open_set("digits", limit, seed) for limit, seed in ((None, 0), (9, 0), (4, 0), (9, 1))
    )
    assert np.bincount(some.labels).tolist() == [9] * 10
    assert len(open_set("digits", 10**6, 0)) == len(whole) == 359
    names = [{source.name(i) for i in range(len(source))} for source in (some, fewer, other)]
    assert names[1] < names[0]
    assert names[0] != names[2]


def test_unreadable_images_are_named_once_and_left_out(tmp_path, caplog):
    make_set(tmp_path, {"a": (40, 40)})
    file = tmp_path / "a" / "1.png"
    file.write_bytes(file.read_bytes()[:2000])
    images = ImageSet(open_all(tmp_path), 40, BadImages())
    for _ in range(2):
        assert len(images.pixels((0, 1, 2))) == 2
    assert images.pixels((1,)).shape == (0, 3, 40, 40)
    assert caplog.text.count(str(file)) == 1
    strict = ImageSet(open_all(tmp_path), 40, BadImages("fail"))
    with pytest.raises(ValueError, match="--on-bad-image skip"):
        strict.pixels((0, 1))
    for other in ("0.png", "2.png"):
        (tmp_path / "a" / other).write_bytes(b"no image")
    with pytest.raises(ValueError, match="no readable image"):
        choose_size(open_all(tmp_path), None, print)


def test_classes_of_one_name_are_measured_apart(tmp_path):
    """ImageNet has two cranes."""
    make_set(tmp_path, {str(number): (40, 40) for number in range(3)})
    table = {"names": ["0", "1", "2"], "indices": [0, 1, 2], "total": 3}
    manifest = {"classes": table, "class_names": ["crane", "tench", "crane"]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    source = open_all(tmp_path)
    expected = {"crane (0)": [(0, 1, 2)], "tench": [(3, 4, 5)], "crane (2)": [(6, 7, 8)]}
    assert ImageSet(source, 40, BadImages()).batches(3) == expected
    features = Features(torch.randn(9, 4), torch.from_numpy(source.labels))
    found = feature_diversity(features, source.classes.names)
    assert list(found.per_class) == list(expected)
    assert found.overall.images == 9


def test_the_newest_finished_synthetic_set_is_found(tmp_path):
    with pytest.raises(ValueError, match="no finished synthetic set"):
        newest_set(tmp_path)
    for number, name in enumerate(("old", "demo/new", "demo/older")):
        (tmp_path / name).mkdir(parents=True)
        file = tmp_path / name / "manifest.json"
        file.write_text("{}")
        os.utime(file, (1000 - number % 2, 10**9 + [0, 9, 5][number]))
    assert newest_set(tmp_path) == str(tmp_path / "demo/new")


def test_a_run_folder_is_no_set_of_images(toy_teacher):
    with pytest.raises(ValueError, match="is a run folder and holds no images"):
        open_set(str(toy_teacher), None, 0)
