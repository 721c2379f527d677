"""The frozen teacher: logits and stage features of the student's own pixels."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from dearkd.models.taps import with_named_taps
from dearkd.models.teacher import Teacher, default_stage

HALF: dict[str, Any] = {"student_mean": (0.5, 0.5, 0.5), "student_std": (0.5, 0.5, 0.5)}
SMALL = "dearkd_resnet10t_32"


def small(num_classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(SMALL, num_classes=num_classes)


def test_is_frozen_and_stays_in_eval_mode() -> None:
    teacher = Teacher(small(), **HALF)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    nn.Sequential(teacher).train()
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    output = teacher(images, [3])
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert output.logits.grad_fn is None
    assert output.features[0].grad_fn is None
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_sees_its_own_pixels() -> None:
    model = small().eval().double()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    teacher = Teacher(model, student_mean=mean, student_std=std).double()
    raw = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    view = (raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(teacher(view).logits, model((raw - 0.5) / 0.5), rtol=0, atol=1e-5)


def test_equal_normalisation_is_left_alone() -> None:
    teacher = Teacher(small(), **HALF)
    images = torch.randn(2, 3, 32, 32)
    assert teacher.pixels(images) is images


def test_logits_and_features_come_in_the_order_asked_for() -> None:
    teacher = Teacher(small(), **HALF)
    images = torch.randn(2, 3, 32, 32)
    _, maps = teacher.model.forward_intermediates(images)
    output = teacher(images, [4, 1, 4])
    for features, index in zip(output.features, [4, 1, 4], strict=True):
        assert torch.equal(features, maps[index])
    assert torch.equal(output.logits, teacher(images).logits)
    assert teacher(images).features == ()


def test_transformer_of_fixed_size_gets_its_own_size() -> None:
    torch.manual_seed(0)
    vit = timm.create_model("deit_tiny_patch16_224", img_size=64, depth=2)
    vit.pretrained_cfg = {**vit.pretrained_cfg, "input_size": (3, 64, 64)}
    teacher = Teacher(vit, **HALF, img_size=32)
    assert teacher.pixels(torch.randn(2, 3, 32, 32)).shape == (2, 3, 64, 64)
    assert teacher(torch.randn(2, 3, 32, 32), [1]).features[0].shape == (2, 192, 4, 4)


@pytest.mark.parametrize(("precision", "inner"), [("fp32", False), ("bf16", True), ("auto", True)])
def test_precision_overrides_the_callers_autocast(precision: Any, inner: bool) -> None:
    seen = []

    class Spy(nn.Module):
        num_classes = 2

        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return torch.mm(x.flatten(1), torch.ones(48, 2))

    teacher = Teacher(Spy(), **HALF, mean=(0.5,) * 3, std=(0.5,) * 3, precision=precision)
    with torch.autocast("cpu", torch.bfloat16):
        logits = teacher(torch.randn(1, 3, 4, 4)).logits
    assert seen == [inner]
    assert logits.dtype == torch.float32


def test_own_module_with_named_taps() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    tapped = with_named_taps(net, ["1"], num_classes=3)
    teacher = Teacher(tapped, **HALF, mean=(0.5,) * 3, std=(0.5,) * 3, img_size=16)
    images = torch.randn(2, 3, 16, 16)
    output = teacher(images, [0])
    torch.testing.assert_close(output.logits, net(images))
    torch.testing.assert_close(output.features[0], net[1](net[0](images)))
    assert default_stage(teacher, (8, 8)).nonnegative


def test_own_module_must_say_its_normalisation_and_classes() -> None:
    with pytest.raises(ValueError, match="Linear has no pretrained_cfg: give mean, std"):
        Teacher(nn.Linear(1, 1), **HALF)
    with pytest.raises(ValueError, match="must have num_classes of at least 1, got None"):
        Teacher(nn.Linear(1, 1), **HALF, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    ("name", "img_size", "tokens", "index"),
    [
        ("resnet18", 224, (14, 14), 3),
        ("resnet18", 64, (16, 16), 1),
        ("resnet18", 64, (4, 4), 3),
        ("resnet18", 65, (16, 16), 1),
        ("resnet18", 224, (28, 28), 2),
        ("resnet50", 224, (14, 14), 3),
        pytest.param("regnety_160", 224, (14, 14), 3, marks=pytest.mark.slow),
        ("regnety_002", 64, (4, 4), 3),
        ("convnext_atto", 224, (14, 14), 2),
        ("vgg11_bn", 64, (4, 4), 4),
        (SMALL, 32, (8, 8), 3),
        (SMALL, 16, (4, 4), 3),
        (SMALL, 32, (16, 16), 2),
        ("resnet18", 32, (8, 8), 1),
    ],
)
def test_default_stage(name: str, img_size: int, tokens: tuple[int, int], index: int) -> None:
    thin = {"mlp_ratio": 0.01} if name.startswith("vgg") else {}  # of the head's 120 M parameters
    teacher = Teacher(timm.create_model(name, **thin), **HALF, img_size=img_size)
    assert default_stage(teacher, tokens).index == index


class Grids(nn.Module):
    """A classifier whose stages show maps of the given grids."""

    num_classes = 3

    def __init__(self, *grids: tuple[int, int]) -> None:
        super().__init__()
        self.grids, self.head = grids, nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.mean((2, 3)))

    def forward_intermediates(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return images, [nn.functional.adaptive_avg_pool2d(images, grid) for grid in self.grids]

    def forward_head(self, images: Tensor) -> Tensor:
        return self(images)


@pytest.mark.parametrize(
    ("grids", "tokens", "index"),
    [
        ([(8, 8), (4, 4), (4, 4), (2, 2)], (4, 4), 2),  # the last of several with one grid
        ([(12, 12), (4, 4)], (6, 6), 1),  # three halves and twice
        ([(18, 18), (2, 2)], (6, 6), 1),  # equally far: the deeper one
        ([(2, 2), (18, 18)], (6, 6), 1),
        ([(12, 3), (6, 6)], (12, 3), 0),  # rows and columns count each
        ([(16, 16), (8, 8)], (1, 1), 1),
    ],
)
def test_default_stage_of_ties_and_odd_grids(
    grids: list[tuple[int, int]], tokens: tuple[int, int], index: int
) -> None:
    known: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "img_size": 32}
    assert default_stage(Teacher(Grids(*grids), **HALF, **known), tokens).index == index


def test_stage_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="pair stage must be 0 to 4 for this teacher, got 9"):
        Teacher(small(), **HALF).stage(9)


def test_memory_format_changes_the_layout_alone() -> None:
    teacher = Teacher(small(), **HALF)
    images = torch.randn(2, 3, 32, 32)
    before = teacher(images).logits
    teacher.set_memory_format(torch.channels_last)
    assert teacher.pixels(images).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(teacher(images).logits, before, rtol=1e-4, atol=1e-4)


class Remembered:
    """A memory that knows the views below 100."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.recorded: list[Tensor] = []

    def recall(self, views: Tensor, device: torch.device) -> Tensor | None:
        return self.logits.to(device) if int(views.max()) < 100 else None

    def record(self, views: Tensor, logits: Tensor) -> Tensor:
        self.recorded.append(logits)
        return logits.round()


def calls_of(model: nn.Module) -> list[str]:
    """The names of submodules without children, as they are called from now on."""
    seen: list[str] = []
    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))  # type: ignore[misc]
    return seen


FAMILIES = [
    "resnet18",
    "regnety_002",
    "efficientnet_lite0",
    "convnext_atto",
    "mobilenetv3_small_050",
]


@pytest.mark.parametrize("name", [*FAMILIES, "vit_tiny_patch16_224"])
def test_only_what_the_tap_needs_is_run_where_the_logits_are_known(name: str) -> None:
    torch.manual_seed(0)
    size = {"img_size": 32} if name.startswith("vit") else {}
    teacher = Teacher(timm.create_model(name, num_classes=7, **size), **HALF)
    images, views = torch.randn(2, 3, 32, 32), torch.arange(2)
    whole = teacher(images, [2, 1])
    memory = teacher.memory = Remembered(torch.randn(2, 7))
    seen = calls_of(teacher.model)
    every = len([m for m in teacher.model.modules() if not list(m.children())])
    early = teacher(images, [2, 1], views)
    assert torch.equal(early.logits, memory.logits)
    for ours, theirs in zip(early.features, whole.features, strict=True):
        assert torch.equal(ours, theirs)
    assert 0 < len(seen) < 0.8 * every
    seen.clear()
    assert torch.equal(teacher(images, views=views).logits, memory.logits)
    assert not seen
    assert not memory.recorded


def test_unknown_views_are_answered_and_kept_as_the_memory_gives_them_back() -> None:
    teacher = Teacher(small(), **HALF)
    images = torch.randn(2, 3, 32, 32)
    plain = teacher(images, [1])
    memory = teacher.memory = Remembered(torch.zeros(2, 10))
    asked = teacher(images, [1], torch.tensor([3, 100]))
    assert torch.equal(memory.recorded[0], plain.logits)
    assert torch.equal(asked.logits, plain.logits.round())
    assert torch.equal(asked.features[0], plain.features[0])
    assert torch.equal(teacher(images).logits, plain.logits)  # without numbers it is not asked


def test_named_taps_stop_early_too_and_a_plain_network_spares_its_head() -> None:
    images, views = torch.randn(2, 3, 32, 32), torch.arange(2)
    named = with_named_taps(small(), ["layer1", "layer2"], 10)
    teacher = Teacher(named, **HALF, mean=(0.5,) * 3, std=(0.5,) * 3)
    whole = teacher(images, [0])
    teacher.memory = Remembered(torch.randn(2, 10))
    early: Any = named.early
    seen = calls_of(early)
    assert torch.equal(teacher(images, [0], views).features[0], whole.features[0])
    assert any(call.startswith("layer2") for call in seen)
    assert not any(call.startswith(("layer3", "fc")) for call in seen)

    plain = Plain()
    teacher = Teacher(plain, **HALF, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert not teacher.stops_early
    whole = teacher(images, [0])
    memory = teacher.memory = Remembered(torch.randn(2, 10))
    seen = calls_of(plain)
    known = teacher(images, [0], views)
    assert torch.equal(known.features[0], whole.features[0])
    assert torch.equal(known.logits, memory.logits)
    assert seen == ["first", "second"]


class Plain(nn.Module):
    """Two convolutions and a head; ``forward_intermediates`` always runs to the end."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_intermediates(images)[0])

    def forward_intermediates(
        self, images: Tensor, indices: Any = None
    ) -> tuple[Tensor, list[Tensor]]:
        maps = [self.first(images)]
        maps.append(self.second(maps[0]))
        return maps[1], [maps[index] for index in (range(2) if indices is None else indices)]

    def forward_head(self, final: Tensor) -> Tensor:
        return self.fc(final.mean(dim=(2, 3)))
