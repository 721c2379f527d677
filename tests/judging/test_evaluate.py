"""Accuracy against counting by hand; the four readings of a distilled student."""

import pytest
import timm
import torch
from accelerate import Accelerator
from torch import nn

from dearkd.judging.evaluate import evaluate
from dearkd.models.readings import head_scores, readings


class Fixed(nn.Module):
    """Answers with prepared logits, looked up by the image's first pixel."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits[images[:, 0, 0, 0].long()]


def batches_of(images, labels, size):
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        yield {"image": images[part], "label": labels[part]}


@pytest.mark.parametrize("size", [1, 3, 7, 50])
@pytest.mark.parametrize("classes", [3, 12])
def test_counts_equal_counting_by_hand_for_any_batch_size(size, classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(17, classes, generator=generator)
    labels = torch.randint(classes, (17,), generator=generator)
    images = torch.arange(17.0)[:, None, None, None].expand(17, 3, 2, 2)
    result = evaluate(Fixed(logits), batches_of(images, labels, size), Accelerator())
    ranks = [
        sorted(range(classes), key=lambda c: -logits[i, c].item()).index(labels[i].item())
        for i in range(17)
    ]
    assert result["images"] == {"count": 17}
    assert result["logits"]["top1"] == 100 * sum(rank < 1 for rank in ranks) / 17
    assert result["logits"]["top5"] == 100 * sum(rank < 5 for rank in ranks) / 17


def test_four_readings_of_a_distilled_student():
    student = timm.create_model("toy_student", num_classes=5).eval()
    images = torch.randn(4, 3, 16, 16)
    scores = head_scores(student, images)
    assert torch.equal(scores["logits"], student(images))
    student.set_distilled_training(True)
    student.train()
    class_logits, dist_logits = student(images)
    assert torch.allclose(scores["class"], class_logits, atol=1e-6)
    assert torch.allclose(scores["distillation"], dist_logits, atol=1e-6)
    assert torch.allclose(
        scores["softmax"], class_logits.softmax(1) + dist_logits.softmax(1), atol=1e-6
    )


def test_the_two_ways_to_combine_heads_can_disagree():
    student = timm.create_model("toy_student", num_classes=3).eval()
    nn.init.zeros_(student.head.weight)
    nn.init.zeros_(student.head_dist.weight)
    student.head.bias.data = torch.tensor([20.0, 0.0, 0.0])
    student.head_dist.bias.data = torch.tensor([-30.0, 0.0, 0.1])
    scores = head_scores(student, torch.zeros(1, 3, 16, 16))
    assert scores["logits"].argmax().item() == 2
    assert scores["softmax"].argmax().item() == 0


@pytest.mark.parametrize("name", ["efficientformer_l1", "levit_128s"])
def test_two_heads_without_tokens_of_their_own_are_read_as_the_model_does(name):
    model = timm.create_model(name, num_classes=5).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        scores = head_scores(model, images)
        assert hasattr(model, "head_dist")
        assert list(scores) == ["logits"]
        assert torch.equal(scores["logits"], model(images))


def test_the_readings_are_known_without_running_the_model():
    for name in ("toy_student", "toy_cnn"):
        model = timm.create_model(name, num_classes=3).eval()
        assert readings(model) == tuple(head_scores(model, torch.randn(2, 3, 16, 16)))


def test_the_mode_is_restored_and_batch_norm_untouched():
    model = timm.create_model("toy_cnn", num_classes=3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, batches_of(torch.randn(4, 3, 16, 16), torch.zeros(4).long(), 2), Accelerator())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_to_evaluate_on_is_refused():
    with pytest.raises(ValueError, match="no readable image"):
        evaluate(Fixed(torch.zeros(1, 2)), [], Accelerator())
