import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn
from torch.autograd import gradcheck
from toy_nets import ToyNet, classifier, random_net

from synth.bn_statistics import batch_norm_statistics, with_statistics


def hook_loss(net, images, groups, first_multiplier=1.0, by_layer=False):
    """R_BN of each group as everyone writes it: forward hooks on the untouched network."""
    seen = []
    handles = [
        module.register_forward_hook(lambda module, args, out: seen.append((module, args[0])))
        for module in net.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    logits = net(images)
    for handle in handles:
        handle.remove()
    losses = []
    for group in range(groups):
        total = 0.0
        for layer, (module, x) in enumerate(seen):
            block = x.chunk(groups)[group].transpose(0, 1).flatten(1)
            means = (block.mean(1) - module.running_mean).norm(2)
            variances = (block.var(1, unbiased=False) - module.running_var).norm(2)
            if by_layer:
                means = means / module.running_var.sum().sqrt()
                variances = variances / module.running_var.norm(2)
            distance = means + variances
            total = total + distance * (first_multiplier if layer == 0 else 1.0)
        losses.append(total)
    return logits, torch.stack(losses)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    ("first_multiplier", "by_layer"), [(1.0, False), (10.0, False), (4.0, True)]
)
def test_loss_and_gradient_equal_the_hook_version(groups, first_multiplier, by_layer):
    net = random_net().double().requires_grad_(False)
    images = torch.randn(6, 3, 9, 12, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(groups, dtype=torch.float64)
    logits, expected = hook_loss(net, images, groups, first_multiplier, by_layer)
    (F.cross_entropy(logits, torch.arange(6) % 4) + (expected * weights).sum()).backward()
    gradient, images.grad = images.grad, None

    clone, recorder = with_statistics(net, torch.float64)
    recorder.start(groups)
    ours = clone(images)
    loss = recorder.loss(first_multiplier, relative=by_layer)
    (F.cross_entropy(ours, torch.arange(6) % 4) + (loss * weights).sum()).backward()
    assert relative(ours, logits) < 1e-12
    assert relative(loss, expected) < 1e-12
    assert relative(images.grad, gradient) < 1e-10


@pytest.mark.parametrize("groups", [1, 2])
def test_function_gradients(groups):
    x = torch.randn(4, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    scale, shift = torch.randn(2, 3, dtype=torch.float64)
    assert gradcheck(lambda x: batch_norm_statistics(x, scale, shift, groups), x)


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (1, 2), (0, 2)])
def test_gradients_when_only_some_outputs_are_used(used):
    x = torch.randn(4, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    scale, shift = torch.randn(2, 3, dtype=torch.float64)

    def some(x):
        outputs = batch_norm_statistics(x, scale, shift, 2)
        return tuple(outputs[index] for index in used)

    assert gradcheck(some, x)


def test_statistics_are_each_groups_own():
    x = torch.randn(6, 5, 4, 3, dtype=torch.float64)
    _, mean, var = batch_norm_statistics(x, torch.ones(5).double(), torch.zeros(5).double(), 3)
    for group, block in enumerate(x.chunk(3)):
        torch.testing.assert_close(mean[group], block.mean(dim=(0, 2, 3)))
        torch.testing.assert_close(var[group], block.var(dim=(0, 2, 3), correction=0))


def test_bf16_images_keep_float32_statistics():
    net = random_net()
    clone, recorder = with_statistics(net, torch.bfloat16)
    images = torch.randn(4, 3, 16, 16)
    clone(images.bfloat16())
    seen = recorder.seen
    assert {tensor.dtype for layer in seen for tensor in layer} == {torch.float32}
    exact = net.conv1(images)
    torch.testing.assert_close(seen[0][1][0], exact.var((0, 2, 3), correction=0), rtol=0.02, atol=0)
    assert torch.equal(seen[0][2], net.bn1.running_mean)  # not by way of bf16


def test_channels_last_changes_nothing():
    clone, recorder = with_statistics(random_net().double(), torch.float64)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    losses = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        recorder.start(2)
        clone.to(memory_format=memory_format)(images.contiguous(memory_format=memory_format))
        losses.append(recorder.loss())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-13, atol=0)


def test_the_network_is_left_as_it_is():
    net = random_net().train()
    before = copy.deepcopy(net.state_dict())
    clone, recorder = with_statistics(net, torch.float32)
    recorder.start(1)
    clone(torch.randn(2, 3, 8, 8))
    assert net.training and isinstance(net.bn2, BatchNormAct2d) and not clone.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(parameter.requires_grad for parameter in clone.parameters())
    assert not any(module._forward_hooks for module in clone.modules())


def test_a_norm_used_twice_counts_twice():
    shared = nn.BatchNorm2d(3)
    net = nn.Sequential(shared, nn.ReLU(), shared).eval()
    clone, recorder = with_statistics(net, torch.float32)
    recorder.start(1)
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(clone(images), net(images))
    assert len(recorder.seen) == 2


def test_a_norm_without_affine():
    net = nn.Sequential(nn.BatchNorm2d(3, affine=False)).eval()
    clone, _ = with_statistics(net, torch.float32)
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(clone(images), net(images))


def test_no_batch_norm_no_recorder():
    _, recorder = with_statistics(ToyNet(norm=lambda c: nn.GroupNorm(1, c)), torch.float32)
    assert recorder is None


def test_a_norm_without_running_statistics_is_refused():
    net = ToyNet(norm=lambda c: nn.BatchNorm2d(c, track_running_stats=False))
    with pytest.raises(ValueError, match="'bn1' keeps no running statistics"):
        with_statistics(net, torch.float32)


def test_a_norm_with_its_own_forward_is_refused():
    class Odd(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match="is a Odd with its own forward"):
        with_statistics(ToyNet(norm=Odd), torch.float32)


@pytest.mark.parametrize(
    "name", ["resnet18", "regnety_002", "tf_efficientnet_lite0", "mobilenetv3_small_050"]
)
def test_timm_networks_keep_their_logits_and_report_every_norm(name):
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False).eval()
    images = torch.randn(2, 3, 32, 32)
    teacher = classifier(net, name, num_classes=1000)
    teacher.check_last_layer(32)
    clone, recorder = with_statistics(net, torch.float32)
    recorder.start(1)
    with torch.no_grad():
        torch.testing.assert_close(clone(images), net(images), rtol=1e-4, atol=1e-5)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(recorder.seen) == len(norms) > 10
    assert torch.equal(recorder.seen[-1][2], norms[-1].running_mean)
