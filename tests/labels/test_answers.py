"""Labels and logits as they are kept, and what half a precision does to the soft loss."""

import pytest
import torch
from conftest import opened

from dearkd.data.augment import train_augment
from dearkd.data.order import hash64
from dearkd.data.sources import DigitsSource
from dearkd.labels.answers import Answers
from dearkd.losses import soft_distillation
from dearkd.trained.resolve import EMBEDDED


@pytest.mark.parametrize(
    ("classes", "size"), [(2, 1), (256, 1), (257, 2), (1000, 2), (65_536, 2), (65_537, 4)]
)
def test_a_label_takes_the_fewest_bytes_that_hold_it(classes, size):
    answers = Answers("labels", classes)
    logits = torch.zeros(3, classes)
    logits[[0, 1, 2], [0, classes // 2, classes - 1]] = 1.0
    kept = answers.encode(logits)
    assert kept.element_size() == answers.bytes_a_view == size
    assert kept.numpy().dtype == answers.numpy_dtype
    assert kept.long().tolist() == [0, classes // 2, classes - 1]
    assert torch.equal(answers.decode(kept), logits)


def digit_logits():
    """The embedded CNN's logits of augmented digits."""
    teacher = opened(EMBEDDED)
    look = {"mean": tuple(teacher.view["mean"]), "std": tuple(teacher.view["std"])}
    augment, source = train_augment("digits", teacher.img_size, **look), DigitsSource("train")
    rows = torch.arange(128).numpy()
    images = augment([augment.prepare(source.image(row)) for row in rows], hash64(0, rows))
    with torch.no_grad():
        return teacher.network(images)


def random_logits():
    """Of 1,000 classes: a spread of 1.5, and one class about 9 above."""
    draw = torch.Generator().manual_seed(1)
    own = torch.randint(1000, (128, 1), generator=draw)
    high = 9 + torch.randn(128, 1, generator=draw)
    return (1.5 * torch.randn(128, 1000, generator=draw)).scatter_add(1, own, high)


@pytest.mark.parametrize("make", [digit_logits, random_logits])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("near", [True, False])
def test_logits_in_half_precision_hardly_change_the_loss(make, temperature, near):
    logits = make().double()
    draw = torch.Generator().manual_seed(2)
    noise = torch.randn(logits.shape, generator=draw, dtype=torch.float64)
    answers = Answers("logits", logits.shape[1])
    kept = answers.decode(answers.encode(logits.float())).double()
    losses, gradients = [], []
    for teacher in (logits, kept):
        student = ((logits + 0.5 * noise) if near else 0.1 * noise).requires_grad_()
        losses.append(soft_distillation(student, teacher, temperature))
        gradients.append(torch.autograd.grad(losses[-1], student)[0])
    assert abs(losses[1] / losses[0] - 1) < 2e-4
    assert (gradients[1] - gradients[0]).norm() < 4e-3 * gradients[0].norm()
    assert torch.equal(kept.argmax(dim=1), logits.argmax(dim=1))


def test_logits_that_half_precision_cannot_hold_make_no_infinite_loss():
    logits = torch.tensor([[1e6, 0.0, -1e6]])
    answers = Answers("logits", 3)
    kept = answers.decode(answers.encode(logits))
    assert kept.isfinite().all()
    assert soft_distillation(torch.zeros(1, 3), kept).isfinite()
