"""The two heads of a student: which learned, on which scale, and what every program then reads."""

import copy

import pytest
import timm
import torch
from torch import nn

from dearkd.models.heads import (
    bare_heads,
    fitted_scale,
    head_logits,
    head_modules,
    learning_heads,
    settle_heads,
)
from dearkd.models.readings import head_scores, readings

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def two_headed():
    torch.manual_seed(0)
    model = timm.create_model("toy_student", num_classes=5).eval()
    nn.init.normal_(model.head.bias)
    nn.init.normal_(model.head_dist.bias)
    return model


@pytest.mark.parametrize("head", ["class", "distillation"])
def test_the_answer_of_one_trained_head_is_its_own(head):
    model = two_headed()
    with torch.no_grad():
        expected = head_scores(model, IMAGES)[head]
        settle_heads(model, [head], {})
        torch.testing.assert_close(model(IMAGES), expected, atol=1e-6, rtol=1e-5)
        assert readings(model) == ("logits",)
        assert torch.equal(head_scores(copy.deepcopy(model), IMAGES)["logits"], model(IMAGES))


def test_heads_are_brought_to_their_scales():
    model = two_headed()
    with torch.no_grad():
        before = head_scores(model, IMAGES)
        settle_heads(model, ["class", "distillation"], {"distillation": 3.0})
        after = head_scores(model, IMAGES)
    torch.testing.assert_close(after["class"], before["class"])
    torch.testing.assert_close(after["distillation"], 3 * before["distillation"])
    one = two_headed()
    settle_heads(one, ["class"], {"class": 3.0})
    torch.testing.assert_close(one(IMAGES), 3 * before["class"], atol=1e-5, rtol=1e-5)


def test_a_plain_classifier_is_scaled_and_not_marked():
    model = timm.create_model("toy_cnn", num_classes=5).eval()
    with torch.no_grad():
        before = model(IMAGES)
        settle_heads(model, [], {"class": 0.5})
        torch.testing.assert_close(model(IMAGES), before / 2)
    assert not hasattr(model, "answering_heads")
    settle_heads(model, [], {})
    assert list(head_modules(model)) == ["class"]


@pytest.mark.parametrize("name", ["efficientformer_l1", "levit_128s"])
def test_heads_without_tokens_of_their_own_are_read_and_settled(name):
    model = timm.create_model(name, num_classes=5).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found = head_logits(model, images)
        torch.testing.assert_close((found["class"] + found["distillation"]) / 2, model(images))
        settle_heads(model, ["class"], {"class": 2.0})
        torch.testing.assert_close(model(images), 2 * found["class"], atol=1e-4, rtol=1e-4)


def test_heads_that_have_a_gradient_learn():
    model = two_headed().train()
    model.set_distilled_training(True)
    for wanted in (("class",), ("distillation",), ("class", "distillation")):
        model.zero_grad()
        logits = dict(zip(("class", "distillation"), model(IMAGES), strict=True))
        loss = sum((name in wanted) * value.square().sum() for name, value in logits.items())
        loss.backward()
        assert learning_heads(model) == wanted
    assert learning_heads(timm.create_model("toy_cnn", num_classes=5)) == ()


def test_an_untrained_head_shows_by_its_bias():
    model = two_headed()
    assert bare_heads(model) == ()
    nn.init.zeros_(model.head.bias)
    assert bare_heads(model) == ("class",)
    assert bare_heads(timm.create_model("toy_student", num_classes=5)) == ("class", "distillation")


@pytest.mark.parametrize("factor", [0.05, 1.0, 13.0])
def test_the_fitted_scale_is_where_the_loss_is_least(factor):
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    assert fitted_scale(wanted / factor, wanted.softmax(1)) == pytest.approx(factor, rel=1e-9)
    logits = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    targets = (3 * logits + wanted).softmax(1)
    grid = torch.logspace(-2, 2, 2001, dtype=torch.float64)
    losses = [-(targets * (s * logits).log_softmax(1)).sum(1).mean().item() for s in grid]
    best = grid[torch.tensor(losses).argmin()].item()
    assert fitted_scale(logits, targets) == pytest.approx(best, rel=5e-3)


def test_a_scale_stays_within_bounds():
    logits = torch.eye(3)
    assert fitted_scale(logits, torch.eye(3)) == pytest.approx(100)
    assert fitted_scale(logits, torch.eye(3).roll(1, 0)) == pytest.approx(0.01)
