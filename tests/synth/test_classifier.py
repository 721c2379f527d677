import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from toy_nets import MEAN, STD, ToyNet, classifier, random_net

from synth.classifier import normalise, renormalise, to_pixels
from synth.objective import Objective
from synth.objective_settings import ObjectiveConfig


def test_pixels_survive_normalisation():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    assert torch.equal(to_pixels(normalise(pixels / 255, MEAN, STD), MEAN, STD), pixels)


def test_pixels_are_rounded_and_clipped():
    values = torch.tensor([-0.2, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.3]).view(1, 1, 1, 5)
    images = normalise(values.repeat(1, 3, 1, 1), MEAN, STD)
    assert to_pixels(images, MEAN, STD)[0, 0, 0].tolist() == [0, 0, 1, 255, 255]


def test_renormalise_goes_by_way_of_plain_pixels():
    source = classifier(random_net())
    target = classifier(random_net(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    plain = torch.rand(2, 3, 4, 4)
    ours = renormalise(normalise(plain, source.mean, source.std), source, target)
    torch.testing.assert_close(ours, normalise(plain, target.mean, target.std))


def test_judge_is_the_network_on_normalised_pixels_at_its_size():
    judge = classifier(random_net())
    pixels = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    probabilities, embedding = judge.judge(pixels)
    small = F.interpolate(pixels / 255, size=(16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    images = normalise(small, MEAN, STD)
    torch.testing.assert_close(probabilities, judge.network(images).softmax(dim=1).detach())
    assert embedding.shape == (3, 12) and not probabilities.requires_grad


def distilled_vit():
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    return timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4, **sizes).eval()


def test_a_distilled_vit_judges_by_the_mean_of_its_heads_and_is_no_teacher():
    judge = classifier(distilled_vit())
    pixels = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    probabilities, embedding = judge.judge(pixels)
    logits = judge.network(normalise(pixels / 255, MEAN, STD))
    torch.testing.assert_close(probabilities, logits.softmax(dim=1).detach())
    assert embedding.shape == (3, 12)
    with pytest.raises(ValueError, match="toy has 2 heads"):
        Objective(judge, ObjectiveConfig(), allow_no_bn=True)


@pytest.mark.parametrize("name", ["dla34", "resnetv2_50"])
def test_a_head_that_is_a_convolution_makes_logits_too(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=4).eval()
    judge = classifier(network, img_size=64)
    judge.check_last_layer(64)
    images = torch.randn(2, 3, 64, 64)
    logits = judge.last_layer()(judge.embed(images))
    torch.testing.assert_close(logits, network(images))


def test_a_network_that_gives_no_reason_is_refused_all_the_same():
    class Silent(ToyNet):
        def forward_features(self, x):
            raise AssertionError

    with pytest.raises(ValueError, match="toy cannot take 16-pixel images: AssertionError"):
        classifier(Silent()).check_last_layer(16)


def test_the_hash_sees_weights_and_statistics():
    net = random_net()
    first = classifier(net).weights_hash()
    assert first == classifier(random_net()).weights_hash() and len(first) == 64
    net.bn1.running_var[0] += 1e-3
    assert classifier(net).weights_hash() != first


class TwoHeads(ToyNet):
    def forward(self, x):
        return super().forward(x) + 1


class Talkative(ToyNet):
    def forward(self, x):
        features = self.forward_features(x)
        return self.forward_head(features), features


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: classifier(nn.Linear(2, 2), "plain"), r"plain has no forward_features\(\)"),
        (lambda: classifier(ToyNet(), std=(1.0, 0.0, 1.0)), "std positive"),
        (lambda: classifier(ToyNet(), mean=(0.5,)), "one value a channel"),
        (lambda: classifier(ToyNet(), class_names=("a", "b")), "toy has 4 classes, got 2 names"),
        (lambda: classifier(Talkative()).check_last_layer(16), "toy's forward returns a tuple; "),
        (lambda: classifier(TwoHeads()).check_last_layer(16), "does not give its logits"),
        (
            lambda: classifier(ToyNet(classes=5)).check_last_layer(16),
            "gives 5 logits, num_classes is 4",
        ),
        (
            lambda: classifier(ToyNet(), mean=(0.5, 0.5), std=(1.0, 1.0)).check_last_layer(16),
            "toy cannot take 16-pixel images",
        ),
    ],
)
def test_networks_that_do_not_fit(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_fitting_network_passes():
    classifier(random_net()).check_last_layer(16)
