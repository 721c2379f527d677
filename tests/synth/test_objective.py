import pytest
import torch
import torch.nn.functional as F
from test_bn_statistics import hook_loss
from test_intra_divergence import slow_group
from test_priors import slow_adversary, slow_competition, slow_total_variation
from torch import nn
from toy_nets import ToyNet, classifier, random_net

from synth.classifier import renormalise
from synth.groups import Group
from synth.objective import Objective, targets_of
from synth.objective_settings import ObjectiveConfig

GROUPS = (
    Group(id=0, targets=(0, 0, 1, 1, 2, 2)),
    Group(id=1, targets=(3, 3, 3, 1, 1, 1)),
)
ALL_ON = ObjectiveConfig(
    ce_weight=0.7,
    tv_weight=0.01,
    l2_weight=0.02,
    bn_weight=0.3,
    bn_first_multiplier=4.0,
    compete_weight=0.2,
    adversary_weight=1.1,
)


def student():
    return classifier(random_net(7).double(), "student", mean=(0.2, 0.3, 0.4), std=(0.3, 0.1, 0.2))


def exact_objective(config=ALL_ON):
    rival = student() if config.compete_weight else None
    teacher = classifier(random_net().double())
    return Objective(teacher, config, dtype=torch.float64, student=rival)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, 10, 12, dtype=torch.float64, generator=generator, requires_grad=True)


def objective_and_gradient(objective, images, groups):
    total = objective(images, targets_of(groups, objective.config, "cpu"))["objective"]
    (gradient,) = torch.autograd.grad(total.sum(), images)
    return total.detach(), gradient


def test_a_group_alone_and_in_a_batch(images):
    objective = exact_objective()
    together, gradient = objective_and_gradient(objective, images, GROUPS)
    for index, group in enumerate(GROUPS):
        part = slice(6 * index, 6 * index + 6)
        alone, own = objective_and_gradient(
            objective, images[part].detach().requires_grad_(), (group,)
        )
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-10, atol=0)
        assert ((gradient[part] - own).norm() / own.norm()) < 1e-10


def test_every_term_is_its_slow_form(images):
    objective = exact_objective()
    terms = objective(images, targets_of(GROUPS, ALL_ON, "cpu"))
    net = objective.teacher.network
    _, statistics = hook_loss(net, images, 2, 4.0)
    rival = objective.student.network(renormalise(images, objective.teacher, objective.student))
    for index, group in enumerate(GROUPS):
        part = images[6 * index : 6 * index + 6]
        logits, rivals = net(part), rival[6 * index : 6 * index + 6]
        easy, triplet = slow_group(objective.teacher.embed(part), group.targets, 0.3)
        expected = {
            "cross_entropy": F.cross_entropy(logits, torch.tensor(group.targets)),
            "total_variation": sum(slow_total_variation(image) for image in part) / 6,
            "l2": sum(image.norm() for image in part) / 6,
            "bn_statistics": statistics[index],
            "easy_positive": easy,
            "triplet": triplet,
            "competition": sum(map(slow_competition, logits.tolist(), rivals.tolist())) / 6,
            "adversary": sum(map(slow_adversary, logits.tolist(), rivals.tolist())) / 6,
        }
        expected = {
            name: torch.as_tensor(value, dtype=torch.float64).item()
            for name, value in expected.items()
        }
        weights = (0.7, 0.01, 0.02, 0.3, 50.0, 0.5, 0.2, 1.1)
        total = sum(w * v for w, v in zip(weights, expected.values(), strict=True))
        for name, value in (expected | {"objective": total}).items():
            assert terms[name][index].item() == pytest.approx(value, rel=1e-9), name


def test_gradient_of_the_whole_objective_by_finite_differences():
    objective = exact_objective()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    targets = targets_of((Group(id=0, targets=(0, 0, 1, 1)),), ALL_ON, "cpu")

    def total(x):
        return objective(x, targets)["objective"].sum()

    (gradient,) = torch.autograd.grad(total(images), images)
    direction = torch.randn_like(images)
    step = 1e-6 * direction
    slope = (total(images.detach() + step) - total(images.detach() - step)) / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6)


def test_bf16_is_near_float32():
    teacher = classifier(random_net())
    images = torch.randn(12, 3, 16, 16, requires_grad=True)
    config = ObjectiveConfig()
    exact, gradient = objective_and_gradient(Objective(teacher, config), images, GROUPS)
    rough = Objective(teacher, config, dtype=torch.bfloat16, channels_last=True)
    near, near_gradient = objective_and_gradient(rough, images, GROUPS)
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0.02)
    assert F.cosine_similarity(gradient.flatten(), near_gradient.flatten(), dim=0) > 0.98
    assert rough.guides[0].classifier.weight.equal(teacher.network.fc.weight)  # not by way of bf16
    assert near_gradient.dtype == torch.float32


def test_terms_that_are_off_are_not_computed(images):
    config = ObjectiveConfig(bn_weight=0, ep_weight=0, triplet_weight=0)
    terms = exact_objective(config)(images, targets_of(GROUPS, config, "cpu"))
    assert set(terms) == {"cross_entropy", "total_variation", "l2", "objective"}


def test_ep_factor_scales_the_easy_positive_alone(images):
    objective, targets = exact_objective(), targets_of(GROUPS, ALL_ON, "cpu")
    whole, half = (objective(images, targets, ep_factor=factor) for factor in (1.0, 0.5))
    torch.testing.assert_close(
        whole["objective"] - half["objective"], 25 * whole["easy_positive"], rtol=1e-9, atol=0
    )


def test_no_batch_norm():
    teacher = classifier(ToyNet(norm=lambda c: nn.GroupNorm(1, c)).eval(), "norm-less")
    with pytest.raises(ValueError, match=r"norm-less has no BatchNorm2d.* resnet50.* allow_no_bn"):
        Objective(teacher, ObjectiveConfig())
    objective = Objective(teacher, ObjectiveConfig(), allow_no_bn=True)
    terms = objective(torch.randn(12, 3, 16, 16), targets_of(GROUPS, ObjectiveConfig(), "cpu"))
    assert "bn_statistics" not in terms and torch.isfinite(terms["objective"]).all()


def test_students_that_do_not_fit():
    teacher = classifier(random_net())
    with pytest.raises(ValueError, match=r"compete_weight 0.2 needs a student"):
        Objective(teacher, ALL_ON)
    with pytest.raises(ValueError, match=r"adversary_weight 1.1 needs a student"):
        Objective(teacher, ObjectiveConfig(adversary_weight=1.1))
    with pytest.raises(ValueError, match="toy has no effect with compete_weight and adversary"):
        Objective(teacher, ObjectiveConfig(), student=teacher)
    other = classifier(random_net(classes=5), num_classes=5)
    with pytest.raises(ValueError, match="the student has 5 classes, the teacher 4"):
        Objective(teacher, ALL_ON, student=other)


def second_teacher(**kwargs):
    """Another normalisation, and twice the size of the first one's images."""
    look = {"mean": (0.2, 0.3, 0.4), "std": (0.3, 0.1, 0.2), "img_size": 32}
    return classifier(random_net(3).double(), "second", **(look | kwargs))


@pytest.mark.parametrize("size", [16, 32])
def test_ce_and_r_bn_of_several_teachers_are_their_sums_and_all_else_the_firsts(images, size):
    weights = ObjectiveConfig(bn_weight=0.3, bn_first_multiplier=4.0)
    first, second = classifier(random_net().double()), second_teacher(img_size=size)
    images = images[..., :10].detach()
    both = Objective(first, weights, dtype=torch.float64, others=(second,))
    alone = Objective(first, weights, dtype=torch.float64)
    targets = targets_of(GROUPS, weights, "cpu")
    together, single = both(images, targets), alone(images, targets)
    mean, std = (torch.tensor(v).double().view(-1, 1, 1) for v in (first.mean, first.std))
    unit = images * std + mean
    mean, std = (torch.tensor(v).double().view(-1, 1, 1) for v in (second.mean, second.std))
    seen = (unit - mean) / std
    if size == 32:
        seen = F.interpolate(seen, scale_factor=2, mode="bilinear")
    logits, statistics = hook_loss(second.network, seen, 2, 4.0)
    entropy = F.cross_entropy(logits, targets.labels.flatten(), reduction="none").view(2, 6)
    expected = single | {
        "cross_entropy": single["cross_entropy"] + entropy.mean(dim=1),
        "bn_statistics": single["bn_statistics"] + statistics,
    }
    more = entropy.mean(dim=1) + 0.3 * statistics
    expected["objective"] = single["objective"] + more
    for name, value in expected.items():
        torch.testing.assert_close(together[name], value, rtol=1e-6, atol=0)


def test_teachers_that_do_not_fit():
    first = classifier(random_net())
    other = classifier(random_net(classes=5), "second", num_classes=5)
    with pytest.raises(ValueError, match="teacher second has 5 classes, teacher toy has 4"):
        Objective(first, ObjectiveConfig(), others=(other,))
    plain = classifier(ToyNet(norm=lambda c: nn.GroupNorm(1, c)).eval(), "norm-less")
    with pytest.raises(ValueError, match="norm-less has no BatchNorm2d"):
        Objective(first, ObjectiveConfig(), others=(plain,))
