"""Where networks can be tapped, and the sign of what they show there."""

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dearkd.models.taps import describe_stages, is_nonnegative, with_named_taps

R, L = True, False
THIN = {"vgg11_bn": {"mlp_ratio": 0.01}}
"""A head of few parameters, of 120 million."""


@pytest.mark.parametrize(
    ("name", "signs"),
    [
        ("resnet18", [R, R, R, R, R]),
        ("regnety_002", [R, R, R, R, R]),
        ("vgg11_bn", [R, R, R, R, R, R]),  # the last is a pool after a ReLU
        ("dearkd_resnet10t_32", [R, R, R, R, R]),
        ("densenet121", [R, L, L, L, R]),  # a block ends in a concatenation of convolutions
        ("efficientnet_b0", [L, L, L, L, L]),
        ("tf_efficientnet_lite0", [L, L, L, L, L]),
        ("mobilenetv3_small_050", [L, L, L, L, L]),
        ("mobilenetv2_050", [L, L, L, L, L]),
        ("convnext_atto", [L, L, L, L]),
        ("cspresnet50", [L, L, L, L, L]),  # leaky ReLU
        ("repvgg_a0", [R, R, R, R, R]),
    ],
)
def test_sign_of_stage_ends(name: str, signs: list[bool]) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, **THIN.get(name, {})).requires_grad_(False).eval()
    stages = describe_stages(model, 64)
    assert [stage.nonnegative for stage in stages] == signs
    # The structure's answer against what the network shows, on inputs it was not looked at with.
    maps = model.forward_intermediates(10 * torch.randn(2, 3, 64, 64) + 3, intermediates_only=True)
    assert [bool(features.min() >= 0) for features in maps] == signs


def test_stages_are_described() -> None:
    stages = describe_stages(timm.create_model("regnety_002").eval(), 96)
    assert [stage.grid for stage in stages] == [(48, 48), (24, 24), (12, 12), (6, 6), (3, 3)]
    assert [stage.reduction for stage in stages] == [2, 4, 8, 16, 32]
    assert [stage.channels for stage in stages] == [32, 24, 56, 152, 368]


@pytest.mark.parametrize(
    ("operation", "nonnegative"),
    [
        (F.relu, True),
        (F.relu6, True),
        (lambda x: F.hardtanh(x, -1, 1), False),
        (F.silu, False),
        (F.gelu, False),
        (F.leaky_relu, False),
        (lambda x: x, False),
        (lambda x: F.relu(x) - 1, False),
        (lambda x: x.relu() - x.relu(), False),
        (lambda x: torch.add(x.relu(), x.relu(), alpha=-1), False),
        (lambda x: torch.add(x.relu(), x.relu()), True),
        (lambda x: x + x.relu(), False),
        (lambda x: -x.relu(), False),
        (lambda x: torch.cat([x.relu(), x.sigmoid()], 1), True),
        (lambda x: torch.cat([x.relu(), x], 1), False),
        (lambda x: F.max_pool2d(x.relu(), 2), True),
        (lambda x: F.adaptive_avg_pool2d(F.relu(x), 1).permute(0, 2, 3, 1), True),
        (lambda x: x.relu() * x.sigmoid(), True),
        (lambda x: x.relu() * x, False),
        (lambda x: x.clone().relu_(), True),
    ],
)
def test_sign_by_the_operations(operation: Callable[[Tensor], Tensor], nonnegative: bool) -> None:
    features = operation(torch.zeros(1, 2, 4, 4, requires_grad=True))
    assert is_nonnegative(features) is nonnegative


def test_without_a_graph_the_sign_is_unknown_and_counts_as_signed() -> None:
    assert not is_nonnegative(torch.ones(3).relu())


class OwnNet(nn.Module):
    """A user's classifier that timm does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Conv2d(4, 6, 3, 2, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def test_named_taps_of_any_module() -> None:
    torch.manual_seed(0)
    own = OwnNet().eval()
    images = torch.randn(2, 3, 16, 16)
    tapped = with_named_taps(own, ["stem", "body"], num_classes=5)
    final, (body,) = tapped.forward_intermediates(images, indices=[1])
    torch.testing.assert_close(body, own.body(own.stem(images)))
    torch.testing.assert_close(tapped.forward_head(final), own(images))
    stages = describe_stages(tapped, 16)
    assert [(s.channels, s.grid, s.nonnegative) for s in stages] == [
        (4, (8, 8), True),
        (6, (4, 4), False),
    ]


def test_unknown_node_is_named() -> None:
    with pytest.raises(ValueError, match=r"OwnNet can't be tapped at nose .*get_graph_node_names"):
        with_named_taps(OwnNet(), ["nose"], num_classes=5)


def test_module_without_taps_is_told_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"OwnNet shows no stages .*dearkd.models.taps.with_named"):
        describe_stages(OwnNet(), 16)


def test_forward_intermediates_that_stop_short_are_refused() -> None:
    class Short(OwnNet):
        def forward_intermediates(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            return self.stem(x).mean((2, 3)), [self.stem(x)]

        def forward_head(self, x: Tensor) -> Tensor:
            return self.head(F.pad(x, (0, 2)))

    with pytest.raises(ValueError, match="Short does not end in what its forward_head takes"):
        describe_stages(Short().eval(), 16)
