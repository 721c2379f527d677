"""Order, views, mixing and loaders: every draw is a function of the view's key."""

import logging
import multiprocessing
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from dearkd.data.augment import (
    ArrayAugment,
    TimmAugment,
    eval_augment,
    train_augment,
    view_augment,
)
from dearkd.data.decode import BadImageError
from dearkd.data.folders import FolderSource
from dearkd.data.loaders import eval_loader, train_loader
from dearkd.data.mixing import Mixing, mix, smooth
from dearkd.data.order import (
    EpochOrder,
    ViewKey,
    hash64,
    left_out,
    ranked,
    stratified_rows,
    uniforms,
)
from dearkd.data.sizes import SMALL
from dearkd.data.sources import Classes
from dearkd.data.views import Views
from dearkd.errors import UserError

BILINEAR = {"interpolation": "bilinear"}
LOOK = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}


class Noise:
    """Random pictures, some of them bad; the class is the index modulo 2."""

    def __init__(self, count=12, size=(20, 16), bad=()):
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (count, size[1], size[0], 3), dtype=np.uint8)
        self.bad = bad
        self.labels = np.arange(count) % 2
        self.classes = Classes(2)

    def __len__(self):
        return len(self.pixels)

    def image(self, index):
        if index in self.bad:
            raise BadImageError(self.name(index), "broken")
        return Image.fromarray(self.pixels[index])

    def name(self, index):
        return f"noise {index}"


def augment(name="light", size=16):
    return train_augment(name, size, **LOOK)


def views_by_key(loader, order, epoch=0, start_step=0):
    """Every view of an epoch, by its key."""
    found = {}
    steps = list(order.batches(epoch, start_step))
    batches = list(loader.epoch(epoch, start_step))
    assert len(steps) == len(batches)
    for keys, batch in zip(steps, batches, strict=True):
        for row, key in enumerate(keys):
            found[key] = tuple(batch[name][row] for name in ("image", "label", "weight", "box"))
    return found


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, values in first.items():
        for one, other in zip(values, second[key], strict=True):
            assert torch.equal(one, other), key


# --- hash and order ---


def test_hash_is_splitmix64():
    # Published outputs of SplitMix64 seeded with 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    bits = (uniforms(np.array([1234567], np.uint64), 3)[0] * 2**53).astype(np.uint64)
    assert bits.tolist() == [value >> 11 for value in expected]


def test_hash_separates_its_parts_and_broadcasts():
    grid = hash64(0, np.arange(100)[:, None], np.arange(100))
    assert len(np.unique(grid)) == 10_000
    assert grid[3, 5] == hash64(0, 3, 5)[0] != hash64(0, 5, 3)[0]
    bits = np.unpackbits(grid.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 0.002


def test_ranked_is_a_permutation_and_uniform():
    firsts = Counter(int(ranked(5, seed)[0]) for seed in range(2000))
    assert sorted(ranked(50, 1).tolist()) == list(range(50))
    assert all(340 < firsts[i] < 460 for i in range(5))


def test_an_epoch_is_a_permutation_that_changes():
    order = EpochOrder(images=24, batch_size=8, seed=1)
    assert order.steps_per_epoch == 3
    index, repeat = order.sequence(0)
    assert sorted(index) == list(range(24))
    assert not repeat.any()
    assert index.tolist() != order.sequence(1)[0].tolist()
    assert index.tolist() != EpochOrder(images=24, batch_size=8, seed=2).sequence(0)[0].tolist()


@pytest.mark.parametrize("repeats", [1, 3])
def test_batch_size_world_and_start_do_not_change_the_sequence(repeats):
    whole = EpochOrder(images=48, batch_size=48, seed=0, repeats=repeats)
    flat = next(iter(whole.batches(5)))
    small = EpochOrder(images=48, batch_size=8, seed=0, repeats=repeats)
    assert [key for batch in small.batches(5) for key in batch] == flat
    assert [key for batch in small.batches(5, 4) for key in batch] == flat[32:]
    ranks = [
        EpochOrder(images=48, batch_size=8, seed=0, repeats=repeats, rank=r, world=2)
        for r in range(2)
    ]
    steps = zip(*(order.batches(5) for order in ranks), strict=True)
    assert [key for step in steps for part in step for key in part] == flat


@pytest.mark.parametrize(("images", "views", "repeats"), [(50, None, 3), (21, 47, 1), (33, 99, 3)])
def test_a_position_holds_the_same_view_whatever_the_batch(images, views, repeats):
    """Also where batches of one size leave out more of the epoch than those of another."""
    sequences, named = [], {}
    for size, world in [(2, 1), (4, 1), (12, 2), (20, 2)]:
        shared = {"images": images, "batch_size": size, "seed": 3, "views": views}
        parts = [EpochOrder(**shared, repeats=repeats, rank=r, world=world) for r in range(world)]
        sequences.append(np.stack(parts[0].sequence(4)).tolist())
        keys = [key for part in parts for batch in part.batches(4) for key in batch]
        assert len({key.number for key in keys}) == len(keys)
        for key in keys:
            assert named.setdefault(key.number, key) == key
    assert all(sequence == sequences[0] for sequence in sequences)
    first = 4 * (views or images)
    assert sorted(named) == list(range(first, first + (views or images) // 2 * 2))


@pytest.mark.parametrize("images", [20, 33, 48, 100])
def test_repeated_augmentation_counts_and_neighbours(images):
    order = EpochOrder(images=images, batch_size=4, seed=0, repeats=3)
    index, repeat = order.sequence(0)
    assert len(index) == images // 4 * 4
    counts = Counter(index.tolist())
    assert max(counts.values()) == 3
    assert len(index) / 3 <= len(counts) <= len(index) / 3 + 6
    assert len(set(zip(index.tolist(), repeat.tolist(), strict=True))) == len(index)
    assert (index[0::2] != index[1::2]).all()
    for image in counts:
        places = np.flatnonzero(index == image)
        assert np.ptp(places) < 48
        partners = {int(index[place ^ 1]) for place in places}
        if images >= 48 and places[-1] < 48:
            assert len(partners) == len(places)


@pytest.mark.parametrize("images", [9, 10])
def test_keep_steps_continues_with_new_permutations(images):
    order = EpochOrder(images=images, batch_size=4, seed=0, views=40)
    index, repeat = order.sequence(0)
    assert len(index) == 40 == order.views_per_epoch
    assert len(set(zip(index.tolist(), repeat.tolist(), strict=True))) == 40
    assert (index[0::2] != index[1::2]).all()
    counts = Counter(index.tolist())
    assert max(counts.values()) - min(counts.values()) <= 2


def test_order_errors():
    with pytest.raises(ValueError, match=r"batch size 64 exceeds the 21 images.*at most 20"):
        EpochOrder(images=21, batch_size=64, seed=0)
    with pytest.raises(ValueError, match=r"at least 2 images.*got 1; add images"):
        EpochOrder(images=1, batch_size=2, seed=0, views=40)
    with pytest.raises(ValueError, match=r"must be a multiple of 2 .*got 5; set .* to 4"):
        EpochOrder(images=21, batch_size=5, seed=0)
    with pytest.raises(ValueError, match=r"multiple of 4 .*each process.*got 6; set .* to 4"):
        EpochOrder(images=21, batch_size=6, seed=0, world=2)
    with pytest.raises(ValueError, match=r"repeats must be at least 1, got 0"):
        EpochOrder(images=21, batch_size=4, seed=0, repeats=0)


def test_images_that_sit_out_of_an_epoch_are_told_of():
    order = EpochOrder(images=493, batch_size=128, seed=0)
    assert left_out(order) == (
        "each epoch leaves out 109 of the 493 images (22 %), drawn anew every time, as it has "
        "3 x 128; data.batch_size=82 would leave out 1"
    )
    epochs = [[key for batch in order.batches(epoch) for key in batch] for epoch in range(2)]
    indices = [{key.index for key in keys} for keys in epochs]
    assert [len(index) for index in indices] == [384, 384]
    assert indices[0] != indices[1]
    assert set(range(493)) - indices[0] - indices[1]  # two epochs need not show them all


def test_a_batch_of_several_forward_passes_leaves_out_whole_batches():
    order = EpochOrder(images=493, batch_size=32, seed=0, world=2)
    assert left_out(order) is None  # 13 of 493
    note = left_out(order, accumulate=4)
    assert note.startswith("each epoch leaves out 109 of the 493 images (22 %)")
    assert note.endswith("as it has 3 x 128; data.batch_size=96 would leave out 13")


def test_repeats_and_kept_steps_count_views():
    for options in ({"images": 493, "repeats": 3}, {"images": 49, "views": 493}):
        order = EpochOrder(batch_size=128, seed=0, **options)
        assert left_out(order).startswith("each epoch leaves out 109 of the 493 views (22 %), as")


@pytest.mark.parametrize(("images", "batch"), [(384, 128), (1437, 32), (1_281_167, 1024)])
def test_a_rest_of_less_than_a_twentieth_is_not_worth_a_word(images, batch):
    assert left_out(EpochOrder(images=images, batch_size=batch, seed=0)) is None


def test_no_other_batch_is_named_where_none_leaves_out_less():
    order = EpochOrder(images=11, batch_size=10, seed=0)
    assert left_out(order) == (
        "each epoch leaves out 1 of the 11 images (9 %), drawn anew every time, as it has 1 x 10"
    )


def test_stratified_rows_depend_on_the_class_alone():
    labels = np.array([0] * 10 + [1] * 10)
    more = np.array([0] * 10 + [1] * 10 + [2] * 30)
    assert set(stratified_rows(labels, 0.3, 5)) < set(stratified_rows(more, 0.3, 5))


# --- views ---


@pytest.mark.parametrize("name", ["light", "digits", "deit"])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_views_do_not_depend_on_batch_size_or_start(name, cache_bytes):
    source, mixing = Noise(), Mixing()
    whole, small = (EpochOrder(images=12, batch_size=b, seed=7) for b in (12, 2))

    def loader(order):
        return train_loader(source, augment(name), order, mixing=mixing, cache_bytes=cache_bytes)

    reference = views_by_key(loader(whole), whole, epoch=3)
    assert len(reference) == 12
    assert_same(reference, views_by_key(loader(small), small, epoch=3))
    late = views_by_key(loader(small), small, epoch=3, start_step=4)
    assert len(late) == 4
    assert_same(late, {key: reference[key] for key in late})


@pytest.mark.parametrize("name", ["light", "deit"])
def test_views_do_not_depend_on_workers_or_epochs_before(name):
    source = Noise(bad=(3,))
    order = EpochOrder(images=12, batch_size=4, seed=0)
    alone = train_loader(source, augment(name), order, mixing=Mixing())
    workers = train_loader(source, augment(name), order, mixing=Mixing(), workers=2)
    for epoch in (0, 1):
        reference = views_by_key(alone, order, epoch)
        assert_same(reference, views_by_key(workers, order, epoch))
    next(iter(workers.epoch(2)))  # abandoned after a step, as on an interruption
    assert_same(views_by_key(alone, order, 3), views_by_key(workers, order, 3))
    assert alone.bad_images.found == workers.bad_images.found == {"noise 3": "broken"}


@pytest.mark.parametrize("name", ["light", "digits", "deit"])
def test_each_part_of_the_key_changes_the_view(name):
    views = Views(Noise(), augment(name), seed=0, mixing=Mixing())
    keys = [ViewKey(0, 5, 0), ViewKey(1, 5, 0), ViewKey(0, 5, 1), ViewKey(0, 5, 0)]
    batch = views[keys]
    other = Views(Noise(), augment(name), seed=1, mixing=Mixing())[keys]
    assert torch.equal(batch["image"][0], batch["image"][3])
    for image in (batch["image"][1], batch["image"][2], other["image"][0]):
        assert not torch.equal(batch["image"][0], image)
    assert len(set(batch["weight"].tolist())) == 3
    assert not torch.equal(batch["weight"], other["weight"])


@pytest.mark.parametrize("name", ["light", "digits", "deit"])
def test_global_generators_are_left_alone(name):
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    expected = random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    order = EpochOrder(images=12, batch_size=4, seed=0)
    list(train_loader(Noise(), augment(name), order, mixing=Mixing()).epoch(0))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected  # noqa: NPY002


def test_light_views_are_shifted_flipped_and_normalised():
    source = Noise(count=2, size=(16, 16))
    light = augment("light")
    assert light.shift == 2
    padded = np.pad(source.pixels, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    mean, std = np.array(LOOK["mean"]), np.array(LOOK["std"])
    seen = set()
    keys = [ViewKey(epoch, 1, 0) for epoch in range(300)]
    for view in Views(source, light)[keys]["image"].numpy():
        matches = [
            (y, x, flip)
            for y in range(5)
            for x in range(5)
            for flip in (False, True)
            if np.allclose(
                ((padded[1, y : y + 16, x : x + 16][:, :: -1 if flip else 1] / 255) - mean) / std,
                view.transpose(1, 2, 0),
                atol=1e-5,
            )
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 50


def test_rotation_and_zoom_move_a_dot_where_geometry_says():
    pixels = np.zeros((1, 33, 33, 3), dtype=np.uint8)
    pixels[0, 14:19, 22:27] = 255  # 8 px right of the centre
    turn = ArrayAugment(img_size=33, mean=(0.0,) * 3, std=(1.0,) * 3, rotate=90.0, zoom=0.25)
    draws = uniforms(np.arange(40, dtype=np.uint64), 5)
    images = turn(np.repeat(pixels, 40, axis=0), np.arange(40, dtype=np.uint64))
    for image, draw in zip(images[:, 0], draws, strict=True):
        angle, zoom = np.deg2rad(90 * (2 * draw[3] - 1)), 1 + 0.25 * (2 * draw[4] - 1)
        y, x = np.mgrid[:33, :33] - 16
        center = (image.numpy() * np.stack([x, y])).sum((1, 2)) / image.numpy().sum()
        assert np.hypot(*center) == pytest.approx(8 * zoom, abs=0.5)
        assert np.arctan2(center[1], center[0]) == pytest.approx(-angle, abs=0.06)


def test_augment_choices():
    assert augment("digits").flip is False
    assert train_augment("light", 32, flip=False, **LOOK).flip is False
    assert isinstance(augment("light", SMALL + 1), TimmAugment)
    names = [type(step).__name__ for step in augment("deit", 224).transform.transforms]
    assert names == [
        "RandomResizedCropAndInterpolation",
        "RandomHorizontalFlip",
        "RandAugment",
        "MaybeToTensor",
        "Normalize",
        "RandomErasing",
    ]
    assert isinstance(augment("none"), ArrayAugment)
    with pytest.raises(
        ValueError, match=r"augment must be deit, light, crops, digits or none, got 'x'"
    ):
        augment("x")
    with pytest.raises(ValueError, match=r"interpolation must be bicubic or bilinear, got 'box'"):
        eval_augment(16, interpolation="box", **LOOK)
    with pytest.raises(ValueError, match=r"crop_pct must be above 0 and at most 1, got 1.5"):
        eval_augment(16, crop_pct=1.5, **LOOK)
    with pytest.raises(ValueError, match=r"crop_mode must be center, squash or border, got 'cut'"):
        eval_augment(16, crop_mode="cut", **LOOK)


@pytest.mark.parametrize(("size", "crop_pct"), [(16, None), (16, 0.9), (70, None)])
def test_evaluation_sees_the_centre(size, crop_pct):
    source = Noise(count=3, size=(140, 100))
    loader = eval_loader(source, eval_augment(size, crop_pct=crop_pct, **LOOK), 2)
    batch = next(iter(loader))
    assert batch["image"].shape == (2, 3, size, size)
    mean = torch.tensor(LOOK["mean"])[:, None, None]
    assert (batch["image"] * torch.tensor(LOOK["std"])[:, None, None] + mean).mean() == (
        pytest.approx(source.pixels[:2].mean() / 255, abs=0.02)
    )


def evaluated(image, size, **view):
    """One image as `dearkd eval` sees it, and as timm's own transform does."""
    view = {"interpolation": "bicubic", **LOOK, **view}
    ours = view_augment(view, size)
    pixels = ours([ours.prepare(image)], np.zeros(1, np.uint64))[0]
    return pixels, create_transform(size, **view)(image)


@pytest.mark.parametrize("mode", ["squash", "border", "center"])
@pytest.mark.parametrize(("size", "crop_pct"), [(16, 1.0), (70, 0.9)])
def test_evaluation_crops_as_timm_does(mode, size, crop_pct):
    image = Noise(count=1, size=(140, 100)).image(0)
    pixels, expected = evaluated(image, size, crop_pct=crop_pct, crop_mode=mode)
    if (size, mode) == (16, "center"):
        whole = ArrayAugment(img_size=16, **LOOK)
        expected = whole([whole.prepare(image)], np.zeros(1, np.uint64))[0]
    torch.testing.assert_close(pixels, expected)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("sides", [(1, 9), (7, 57), (4, 701), (131, 1060)])
def test_extreme_images_are_resized_in_the_middle_alone(sides, crop_pct, interpolation):
    for size in (sides, sides[::-1]):
        image = Noise(count=1, size=size).image(0)
        view = {"crop_pct": crop_pct, "crop_mode": "center", "interpolation": interpolation}
        pixels, expected = evaluated(image, 71, **view)
        assert (pixels - expected).abs().max() * min(LOOK["std"]) <= 1.01 / 255
        assert (pixels == expected).float().mean() > 0.99
        first = view_augment({**LOOK, **view}, 71).transform.transforms[0]
        assert max(first(image).size) == 71 + 2 * int(71 / crop_pct)


def test_images_of_ordinary_shape_are_left_to_timm():
    first = eval_augment(70, **LOOK).transform.transforms[0]
    image = Noise(count=1, size=(5, 40)).image(0)
    assert first(image) is image


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1)])
def test_a_line_in_a_frame_is_seen(size):
    view = view_augment({**LOOK, "crop_pct": 0.9, "crop_mode": "border"} | BILINEAR, 70)
    pixels = view([Image.new("RGB", size, "white")], np.zeros(1, np.uint64))[0, 0]
    assert (pixels > 2).sum() == 70
    assert (pixels.abs() < 0.01).sum() == 70 * 69


# --- mixing ---


def slow_mix(images, labels, weight, box, classes, smoothing):
    """One pixel at a time."""
    mixed, targets = images.clone(), torch.zeros(len(images), classes, dtype=torch.float64)
    for p in range(len(images)):
        q = p + 1 if p % 2 == 0 else p - 1
        top, bottom, left, right = box[p].tolist()
        is_cut = bottom > top and right > left
        for y in range(images.shape[2]):
            for x in range(images.shape[3]):
                w = float(weight[p])
                if is_cut:
                    w = 0.0 if top <= y < bottom and left <= x < right else 1.0
                mixed[p, :, y, x] = w * images[p, :, y, x] + (1 - w) * images[q, :, y, x]
        for owner, share in ((p, float(weight[p])), (q, 1 - float(weight[p]))):
            targets[p] += share * smoothing / classes
            targets[p, labels[owner]] += share * (1 - smoothing)
    return mixed, targets


def draw(mixing, count=64, height=10, width=14):
    return mixing.draw(hash64(0, np.arange(count)), height, width)


def test_mix_equals_a_loop_over_pixels():
    images = torch.randn(8, 3, 5, 7, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 3, 3, 1, 0])
    weight, box = (torch.from_numpy(a) for a in draw(Mixing(prob=0.8), 8, 5, 7))
    weight = weight.double()
    mixed, targets = mix(images, labels, weight, box, 4, 0.1)
    expected, expected_targets = slow_mix(images, labels, weight, box, 4, 0.1)
    assert (box.sum(1) > 0).any()
    assert (weight == 1).any()
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(targets, expected_targets, rtol=0, atol=1e-14)
    torch.testing.assert_close(targets.sum(1), torch.ones(8, dtype=torch.float64))


@pytest.mark.parametrize("cut", [False, True])
def test_mix_equals_timms(cut, monkeypatch):
    from timm.data.mixup import Mixup, cutmix_bbox_and_lam

    images, labels = torch.rand(2, 3, 12, 12), torch.tensor([1, 4])
    timm_mixup = Mixup(0.0 if cut else 0.8, 1.0 if cut else 0.0, num_classes=6)
    monkeypatch.setattr(timm_mixup, "_params_per_batch", lambda: (0.3, cut))
    box, weight = (0, 0, 0, 0), 0.3
    if cut:
        np.random.seed(1)  # noqa: NPY002
        box, weight = cutmix_bbox_and_lam(images.shape, 0.3)
        np.random.seed(1)  # noqa: NPY002
    expected, expected_targets = timm_mixup(images.clone(), labels)
    both = torch.full((2,), float(weight)), torch.tensor([list(map(int, box))] * 2)
    mixed, targets = mix(images, labels, *both, 6, 0.1)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(targets, expected_targets)


def test_unmixed_views_keep_their_bits():
    images = torch.randn(4, 3, 6, 6)
    weight, box = (torch.from_numpy(a) for a in draw(Mixing(mixup=0.0, cutmix=0.0), 4, 6, 6))
    labels = torch.tensor([0, 1, 2, 0])
    mixed, targets = mix(images, labels, weight, box, 3, 0.0)
    assert torch.equal(mixed, images)
    assert torch.equal(targets, smooth(labels, 3, 0.0))


def test_draws_follow_their_distributions():
    weight, box = draw(Mixing(mixup=0.8, cutmix=0.0), 20_000)
    assert not box.any()
    assert weight.mean() == pytest.approx(0.5, abs=0.01)
    assert weight.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.002)  # of Beta(a, a)
    weight, box = draw(Mixing(mixup=0.0, cutmix=1.0), 20_000)
    area = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])
    np.testing.assert_allclose(weight, 1 - area / 140, atol=1e-6)
    weight, box = draw(Mixing(), 20_000)
    assert np.mean(box.any(1)) == pytest.approx(0.5, abs=0.02)
    weight, _ = draw(Mixing(cutmix=0.0, prob=0.25), 20_000)
    assert np.mean(weight < 1) == pytest.approx(0.25, abs=0.01)
    _, box = draw(Mixing(switch=1.0, mixup=0.8), 2000)
    assert np.mean(box.any(1)) > 0.95


def test_mixing_errors():
    with pytest.raises(ValueError, match=r"mixup must be at least 0, got -1.0"):
        Mixing(mixup=-1.0)
    with pytest.raises(ValueError, match=r"prob must be between 0 and 1, got 2"):
        Mixing(prob=2.0)
    odd = torch.zeros(3, 3, 4, 4), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"a batch must be even, got 3"):
        mix(*odd, torch.ones(3), torch.zeros(3, 4, dtype=torch.int64), 2)


# --- bad images and loaders ---


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_bad_images_are_replaced_within_their_class_and_named_once(workers, cache_bytes, caplog):
    source = Noise(bad=(4, 7))
    order = EpochOrder(images=12, batch_size=4, seed=0)
    with caplog.at_level(logging.WARNING, logger="dearkd"):
        loader = train_loader(
            source, augment(), order, workers=workers, cache_bytes=cache_bytes, class_map=(5, 9)
        )
        for epoch in range(3):
            steps = list(order.batches(epoch))
            for keys, batch in zip(steps, loader.epoch(epoch), strict=True):
                for key, index, label in zip(keys, batch["index"], batch["label"], strict=True):
                    assert index % 2 == key.index % 2
                    assert label == (5, 9)[key.index % 2]
                    assert int(index) not in source.bad
                    assert key.index in source.bad or index == key.index
    assert sorted(record.getMessage() for record in caplog.records) == [
        "cannot decode noise 4 (broken): skipped",
        "cannot decode noise 7 (broken): skipped",
    ]


def test_a_class_without_a_good_image_borrows_from_any_other():
    source = Noise(bad=(1, 3, 5, 7, 9, 11))
    batch = Views(source, augment())[[ViewKey(0, 1, 0)]]
    assert batch["failure"] is None
    assert batch["label"].tolist() == [0]


@pytest.mark.parametrize("workers", [0, 2])
def test_all_images_bad_ends_in_one_line(workers):
    source = Noise(bad=range(12))
    order = EpochOrder(images=12, batch_size=4, seed=0)
    loader = train_loader(source, augment(), order, workers=workers)
    with pytest.raises(ValueError, match=r"^\d+ images in a row are bad.*noise \d+; check the"):
        list(loader.epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_fail_policy_names_file_and_remedies(tmp_path, workers):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (9, 9)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "dog" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    order = EpochOrder(images=8, batch_size=4, seed=0)
    message = r"^cannot decode .*2\.png \(.*\); repair or remove it, or .*--on-bad-image skip$"
    source = FolderSource(tmp_path)
    loader = train_loader(
        source, augment("deit"), order, on_bad_image="fail", workers=workers, cache_bytes=0
    )
    with pytest.raises(ValueError, match=message):
        list(loader.epoch(0))
    with pytest.raises(ValueError, match=message):  # cached images are found before training
        train_loader(source, augment(), order, on_bad_image="fail")
    with pytest.raises(ValueError, match=r"on_bad_image must be skip or fail, got 'x'"):
        train_loader(source, augment(), order, on_bad_image="x")


@pytest.mark.parametrize(("views", "workers"), [("deit", 0), ("deit", 1), ("light", 0)])
def test_a_failing_disk_is_no_bad_image(views, workers):
    """Light views are decoded ahead, where the loader is made."""

    class Failing(Noise):
        def image(self, index):
            raise OSError(5, "Input/output error")

    order = EpochOrder(images=12, batch_size=4, seed=0)
    with pytest.raises(UserError, match=r"cannot read the data .*Input/output error.*check the"):
        list(train_loader(Failing(), augment(views), order, workers=workers).epoch(0))


def test_an_augmentation_error_is_never_a_bad_image():
    def broken(image):
        raise SyntaxError("bug in a transform")

    order = EpochOrder(images=12, batch_size=4, seed=0)
    loader = train_loader(Noise(), TimmAugment(16, broken), order)
    with pytest.raises(SyntaxError, match=r"bug in a transform"):
        list(loader.epoch(0))
    assert not loader.bad_images.found


@pytest.mark.parametrize("world", [1, 2, 5, 13])
def test_evaluation_sees_every_image_once(world):
    source = Noise(bad=(2,))
    seen, labels = [], []
    for rank in range(world):
        loader = eval_loader(
            source, eval_augment(16, **LOOK), 3, rank=rank, world=world, class_map=(3, 8)
        )
        batches = list(loader)
        nothing_left = world == 13 and rank == 2  # its one image is the bad one
        assert len(batches) == len(loader) - nothing_left
        seen += [i for batch in batches for i in batch["index"].tolist()]
        labels += [i for batch in batches for i in batch["label"].tolist()]
    assert sorted(seen) == [i for i in range(12) if i != 2]
    assert labels == [(3, 8)[i % 2] for i in seen]


def test_evaluation_reports_and_refuses():
    source = Noise(bad=(2,))
    loader = eval_loader(source, eval_augment(16, **LOOK), 1, workers=1)
    assert sum(len(batch["image"]) for batch in loader) == 11
    assert loader.bad_images.found == {"noise 2": "broken"}
    with pytest.raises(ValueError, match=r"cannot decode noise 2"):
        list(eval_loader(source, eval_augment(70, **LOOK), 4, on_bad_image="fail"))
    with pytest.raises(ValueError, match=r"evaluation batch size must be at least 1, got 0"):
        eval_loader(source, eval_augment(16, **LOOK), 0)


def test_workers_end_with_their_loader_even_in_mid_epoch():
    order = EpochOrder(images=12, batch_size=4, seed=0)
    before = set(multiprocessing.active_children())
    loader = train_loader(Noise(), augment(), order, workers=2)
    epoch = loader.epoch(0)
    next(epoch)
    started = set(multiprocessing.active_children()) - before
    assert len(started) == 2
    loader.close()
    assert not any(worker.is_alive() for worker in started)


def test_crops_show_parts_of_a_picture_at_any_size():
    """One that is black on its left and white on its right."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    seeds = np.arange(256, dtype=np.uint64)
    for size in (16, 80):
        views = augment("crops", size)([Image.fromarray(pixels)] * len(seeds), seeds)
        assert views.shape == (256, 3, size, size)
        spans = (views.amax((2, 3)) - views.amin((2, 3))).amax(1)
        assert (spans < 1e-6).any() and (spans > 1).any()  # one side alone, and both
    area = augment("crops", 16).transform.transforms[0].scale
    assert area == (0.08, 1.0)
    whole = augment("light", 16)
    shown = whole([whole.prepare(Image.fromarray(pixels))] * len(seeds), seeds)
    assert (shown.amax((2, 3)) - shown.amin((2, 3)) > 1).all()
