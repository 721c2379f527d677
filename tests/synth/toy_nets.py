"""Toy networks with timm's head interface, and a problem that one can learn in a second."""

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from synth.classifier import Classifier

MEAN, STD = (0.5, 0.4, 0.6), (0.25, 0.2, 0.3)
CLASSES = 4


class ToyNet(nn.Module):
    """conv-BN-ReLU, conv-BatchNormAct2d, pool, linear."""

    def __init__(self, classes: int = CLASSES, norm: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = (norm or nn.BatchNorm2d)(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.bn2 = (norm or BatchNormAct2d)(12)
        self.fc = nn.Linear(12, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.fc


def random_net(seed: int = 0, classes: int = CLASSES, **kwargs: object) -> ToyNet:
    """Random weights and random BatchNorm statistics, in eval mode."""
    torch.manual_seed(seed)
    net = ToyNet(classes, **kwargs).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.3, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return net


def classifier(net: nn.Module, name: str = "toy", **kwargs: object) -> Classifier:
    settings = {"mean": MEAN, "std": STD, "img_size": 16, "num_classes": CLASSES}
    return Classifier(name=name, network=net, **(settings | kwargs))


def toy_batch(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Normalised noisy images whose class is where the bright quarter lies."""
    labels = torch.randint(CLASSES, (count,), generator=generator)
    images = torch.rand(count, 3, 16, 16, generator=generator) * 0.5
    for index, label in enumerate(labels.tolist()):
        top, left = 8 * (label // 2), 8 * (label % 2)
        images[index, label % 3, top : top + 8, left : left + 8] += 0.5
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std, labels


def trained_net(seed: int = 0) -> ToyNet:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = ToyNet().train()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(80):
        images, labels = toy_batch(64, generator)
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval()
