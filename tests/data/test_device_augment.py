"""Views finished by kornia on a device are the CPU path's own views, up to rounding and kernels."""

import json
from collections import Counter
from io import BytesIO

import forked
import numpy as np
import pytest
import torch
from conftest import quiet_train
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP
from timm.data.transforms import RandomResizedCropAndInterpolation

from dearkd.config import load_config
from dearkd.data.augment import ArrayAugment, train_augment
from dearkd.data.device_augment import DeviceAugment
from dearkd.data.loaders import train_loader
from dearkd.data.mixing import Mixing
from dearkd.data.order import EpochOrder, hash64
from dearkd.data.rand_augment import OPERATIONS, apply_operations
from dearkd.data.sources import Classes
from dearkd.errors import UserError

LOOK = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
FILL = (124, 116, 104)
AMOUNTS = {
    "AutoContrast": (None,),
    "Equalize": (None,),
    "Invert": (None,),
    "Rotate": (27.0, -28.5, 3.0),
    "PosterizeIncreasing": (0, 1, 4),
    "SolarizeIncreasing": (0, 26, 77, 256),
    "SolarizeAdd": (0, 99, 110),
    "ColorIncreasing": (0.1, 0.19, 1.81, 1.9),
    "ContrastIncreasing": (0.1, 0.19, 1.81, 1.9),
    "BrightnessIncreasing": (0.1, 0.19, 1.81, 1.9),
    "SharpnessIncreasing": (0.1, 0.19, 1.81, 1.9),
    "ShearX": (0.27, -0.3),
    "ShearY": (0.27, -0.3),
    "TranslateXRel": (0.405, -0.45),
    "TranslateYRel": (0.405, -0.45),
}
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")


def photo(number, size=(320, 240)):
    """A picture with the smoothness, edges and grain of a photo, through JPEG."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)).astype(float)
    y, x = np.mgrid[: size[1], : size[0]]
    for _ in range(6):  # discs with sharp edges
        inside = np.hypot(x - rng.uniform(0, size[0]), y - rng.uniform(0, size[1])) < 40
        image[inside] = 0.4 * image[inside] + 0.6 * rng.uniform(0, 255, 3)
    image += rng.normal(0, 3, image.shape)
    content = BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
    return Image.open(content).convert("RGB")


PHOTOS = [photo(number) for number in range(6)]


def pair(name="deit", size=96, **options):
    """The augmentation on the CPU, and its two halves."""
    cpu, other = (train_augment(name, size, **{**LOOK, **options}) for _ in range(2))
    return cpu, DeviceAugment(other)


def seeds_of(count, stream=0):
    return hash64(stream, np.arange(count))


def levels(images):
    """Normalised images as levels 0 to 255."""
    mean, std = (torch.tensor(LOOK[name])[:, None, None] for name in ("mean", "std"))
    return ((images * std + mean) * 255).round()


# --- each operation ---


@pytest.mark.parametrize("name", sorted(AMOUNTS))
def test_every_operation_is_pillows(name):
    crops = [image.crop((40, 30, 168, 126)) for image in PHOTOS]
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    for amount in AMOUNTS[name]:
        arguments = () if amount is None else (amount,)
        options = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}
        expected = np.stack([NAME_TO_OP[name](crop, *arguments, **options) for crop in crops])
        got = apply_operations(
            images,
            OPERATIONS,
            torch.full((len(crops), 1), OPERATIONS.index(name)),
            torch.full((len(crops), 1), float(amount or 0), dtype=torch.float64),
            FILL,
        )
        off = (255 * got.permute(0, 2, 3, 1).numpy() - expected.astype(float)).round()
        if name not in MOVES:  # kornia keeps fractions of a level where Pillow rounds on the way
            assert np.abs(off).max() <= 1, amount
            assert abs(off.mean()) < 0.2, amount
        else:  # another cubic kernel: it shows at sharp edges
            assert np.abs(off).mean() < 0.8, amount
            assert np.abs(off).max() <= 24, amount
            assert abs(off.mean()) < 0.05, amount


def test_every_operation_of_the_recipe_is_known_and_tested():
    _, device = pair()
    assert set(device._names) == set(OPERATIONS) == set(AMOUNTS)


@pytest.mark.parametrize("name", MOVES)
def test_the_fill_begins_at_pillows_pixel(name):
    image = Image.new("RGB", (33, 21), (255, 255, 255))
    for amount in AMOUNTS[name]:
        options = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}
        expected = np.asarray(NAME_TO_OP[name](image, amount, **options))
        got = apply_operations(
            torch.ones(1, 3, 21, 33),
            OPERATIONS,
            torch.tensor([[OPERATIONS.index(name)]]),
            torch.tensor([[amount]], dtype=torch.float64),
            FILL,
        )
        found = (255 * got[0].permute(1, 2, 0)).round().numpy()
        assert (found != expected).any(2).sum() <= 1, amount  # one at most is left to rounding


def test_a_plane_of_one_level_has_no_contrast_to_stretch():
    image = torch.full((1, 3, 8, 8), 77 / 255)
    one, none = torch.tensor([[OPERATIONS.index("AutoContrast")]]), torch.zeros(1, 1).double()
    assert torch.equal(
        (apply_operations(image, OPERATIONS, one, none, FILL) * 255).round(), image * 255
    )


def test_images_get_their_own_operations_in_their_own_order():
    images = torch.rand(40, 3, 24, 24).mul(255).floor() / 255
    rng = np.random.default_rng(0)
    operations = torch.from_numpy(rng.integers(-1, len(OPERATIONS), (40, 2)))
    amounts = torch.tensor(
        [[AMOUNTS[OPERATIONS[o]][-1] or 0.0 if o >= 0 else 0.0 for o in row] for row in operations]
    ).double()
    together = apply_operations(images, OPERATIONS, operations, amounts, FILL)
    for row in range(40):
        alone = images[row : row + 1]
        for layer in range(2):
            alone = apply_operations(
                alone,
                OPERATIONS,
                operations[row : row + 1, layer : layer + 1],
                amounts[row : row + 1, layer : layer + 1],
                FILL,
            )
        assert (together[row] - alone[0]).abs().max() <= 1.01 / 255, row
    assert not torch.equal(together, images)


# --- whole views ---


@pytest.mark.parametrize("name", ["deit", "light"])
def test_a_view_is_the_cpu_paths_view_of_the_same_seed(name):
    cpu, device = pair(name)
    seeds = seeds_of(180)
    images = [PHOTOS[number % len(PHOTOS)] for number in range(180)]
    expected = cpu(images, seeds)
    crops, drawn = device.crops(images, seeds)
    assert crops.dtype == torch.uint8
    got = device.finished(crops, drawn)
    assert got.shape == expected.shape
    off = (levels(got) - levels(expected)).abs()
    operations = drawn["operations"]
    for row, (top, bottom, left, right) in enumerate(drawn["erased"].tolist()):
        inside = torch.zeros(96, 96, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        kinds = [device._names[place] for place in operations[row] if place >= 0]
        if name == "light" or not kinds:  # a crop, mirrored or not: no rounding at all
            assert off[row][:, ~inside].max() == 0, row
        elif len(kinds) == 1:
            bound = 40 if kinds[0] in MOVES else 1
            assert off[row][:, ~inside].max() <= bound, (row, kinds)
        # after two, a level's difference may be stretched: equalize, solarize
        assert off[row][:, ~inside].mean() < 4, (row, kinds)
        if inside.any():  # the box is the same; its noise is another draw
            changed = (expected[row] != got[row]).any(0)
            assert changed[inside].float().mean() > 0.99, row
    assert name == "light" or (operations >= 0).sum() > 100


def test_the_crop_is_bitwise_the_cpu_paths():
    cpu, device = pair("light", flip=False)
    crop = next(
        s for s in cpu.transform.transforms if isinstance(s, RandomResizedCropAndInterpolation)
    )
    boxes = []
    original = crop.get_params
    crop.get_params = lambda *a: boxes.append(original(*a)) or boxes[-1]
    own = next(s for s in device._before if isinstance(s, RandomResizedCropAndInterpolation))
    again = []
    own.get_params = lambda *a: again.append(original(*a)) or again[-1]
    seeds = seeds_of(50)
    expected, got = cpu([PHOTOS[0]] * 50, seeds), device([PHOTOS[0]] * 50, seeds)
    assert boxes == again
    assert len(set(boxes)) == 50
    assert torch.equal(levels(expected), levels(got))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_operations_boxes_and_noise_follow_the_recipe():
    _, device = pair(size=32)
    count = 6000
    image = PHOTOS[0].resize((40, 30))
    _, drawn = device.crops([image] * count, seeds_of(count))
    found = Counter(device._names[place] for place in drawn["operations"].flatten() if place >= 0)
    # Two operations of fifteen a view, each left out half of the time.
    sigma = np.sqrt(count / 15)
    assert set(found) == set(OPERATIONS)
    assert all(abs(found[name] - count / 15) < 4.5 * sigma for name in OPERATIONS), found
    layers = (drawn["operations"] >= 0).sum(1)
    assert torch.bincount(layers).tolist() == pytest.approx([1500, 3000, 1500], abs=150)
    degrees = drawn["amounts"][drawn["operations"] == device._names.index("Rotate")]
    assert degrees.abs().mean() == pytest.approx(27, abs=0.3)  # magnitude 9 of 10, 30 degrees at 10
    assert degrees.abs().std() == pytest.approx(1.4, abs=0.2)  # 0.5 of a magnitude, cut at 10
    assert (degrees < 0).float().mean() == pytest.approx(0.5, abs=0.1)
    top, bottom, left, right = drawn["erased"].T
    erased = bottom > top
    assert erased.float().mean() == pytest.approx(0.25, abs=0.02)
    area = ((bottom - top) * (right - left))[erased] / 32**2
    assert 0.015 < area.min() < area.max() < 0.35
    views = device([image] * 400, seeds_of(400))
    noise = torch.cat(
        [
            views[row, :, top[row] : bottom[row], left[row] : right[row]].flatten()
            for row in torch.arange(400)[erased[:400]].tolist()
        ]
    )
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)


def test_device_views_depend_on_the_key_alone():
    class Photos:
        labels = np.arange(len(PHOTOS) * 2) % 2
        classes = Classes(2)

        def __len__(self):
            return len(self.labels)

        def image(self, index):
            return PHOTOS[index % len(PHOTOS)]

        def name(self, index):
            return str(index)

    def views(batch_size, workers, start=0):
        _, device = pair(size=48)
        order = EpochOrder(images=12, batch_size=batch_size, seed=3)
        loader = train_loader(Photos(), device, order, mixing=Mixing(), workers=workers)
        found = []
        for batch in loader.epoch(1, start):
            found.append(device.finished(batch["image"], batch["drawn"]))
        return torch.cat(found)

    whole = views(12, 0)
    assert torch.equal(whole, views(12, 2))
    assert torch.equal(whole[8:], views(4, 1, start=2))
    torch.testing.assert_close(whole, views(4, 0), rtol=0, atol=1e-5)


def test_small_images_are_normalised_as_before():
    augment = ArrayAugment(img_size=16, shift=2, flip=True, **LOOK)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    plain = ArrayAugment(img_size=16, mean=(0.0,) * 3, std=(1.0,) * 3, shift=2, flip=True)
    raw = plain(pixels, seeds_of(8)).double() * 255
    mean, std = (torch.tensor(LOOK[n], dtype=torch.float64)[:, None, None] for n in LOOK)
    expected = (raw.round() / 255 - mean) / std
    torch.testing.assert_close(augment(pixels, seeds_of(8)).double(), expected, rtol=0, atol=1e-6)


# --- the program ---


def test_nobody_pays_for_kornia_who_does_not_use_it_and_small_views_need_it(tmp_path):
    code = (
        "import sys, dearkd, dearkd.cli.main\n"
        "from dearkd import train\n"
        "assert 'kornia' not in sys.modules\n"
        "sys.modules['kornia'] = None\n"
        "import numpy as np\n"
        "from dearkd.data.augment import ArrayAugment\n"
        "augment = ArrayAugment(img_size=4, mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        "augment(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, np.uint64))\n"
    )
    assert forked.script(code, [], tmp_path / "log") == 1
    assert "kornia" in (tmp_path / "log").read_text().splitlines()[-1]


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(PHOTOS):
        (root / f"class{number % 2}").mkdir(exist_ok=True)
        image.save(root / f"class{number % 2}" / f"{number}.png")
    return root


def run(folder, photos, *settings):
    options = {"method": "ce", "student": "dearkd_micro_patch4_32", "stage1": 1, "stage2": 0}
    options |= {"data": {"train": str(photos), "evaluation": str(photos)}, "out": str(folder)}
    options |= {"student_args.depth": 2, "student_args.mhca_depth": 1}
    quiet_train(options, ["data.batch_size=4", "data.augment=deit", *settings])
    return folder


def test_a_run_with_views_from_the_device_is_stored_and_repeated(tmp_path, photo_folder):
    first = run(tmp_path / "a", photo_folder, "data.views=device")
    again = run(tmp_path / "b", photo_folder, "data.views=device", "data.workers=1")
    assert load_config(first / "config.yaml").data.views == "device"
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    reasons = json.loads((first / "summary.json").read_text())["arithmetic"]
    assert reasons["views"] == "as configured"


def test_on_a_cpu_views_are_made_there_unless_told_otherwise(tmp_path, photo_folder):
    folder = run(tmp_path / "a", photo_folder)
    assert load_config(folder / "config.yaml").data.views == "cpu"
    assert (
        json.loads((folder / "summary.json").read_text())["arithmetic"]["views"] == "a cpu device"
    )


@pytest.mark.parametrize("augment", ["light", "none"])
def test_views_that_the_device_has_no_part_in_are_refused(tmp_path, photo_folder, augment):
    with pytest.raises(
        UserError, match=rf"data\.views=device has no effect with data\.augment={augment} at 32 px"
    ):
        run(tmp_path / "a", photo_folder, "data.views=device", f"data.augment={augment}")
