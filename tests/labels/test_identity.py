"""What a teacher's answers depend on, and what they do not."""

import json

import pytest
import timm
import torch

import dearkd  # noqa: F401 - registers the CNN
from dearkd.data.order import EpochOrder
from dearkd.data.settings import DataConfig
from dearkd.data.sources import DigitsSource
from dearkd.errors import UserError
from dearkd.labels.answers import Answers
from dearkd.labels.check import check_answers
from dearkd.labels.identity import check_form, check_same, identity, key_of
from dearkd.models.teacher import Teacher

LOOK = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
PALE = {**LOOK, "mean": (0.4,) * 3}
DIGITS = DigitsSource("train")


def teacher_of(seed=0, **changes):
    torch.manual_seed(seed)
    given = {"student_mean": (0.5,) * 3, "student_std": (0.5,) * 3, "img_size": 32, **changes}
    return Teacher(timm.create_model("dearkd_resnet10t_32", num_classes=10), **given)


TEACHER = teacher_of()


def of(teacher=TEACHER, augment="light", look=LOOK, batch=8, **order):
    config = DataConfig(augment=augment, img_size=32, flip=True)
    sequence = EpochOrder(**{"images": len(DIGITS), "batch_size": batch, "seed": 0, **order})
    return identity(teacher, DIGITS, config, sequence, look)


def test_batch_size_processes_and_the_students_normalisation_are_no_part_of_it():
    assert of(batch=64, world=2) == of() == of(teacher_of(student_mean=(0.1,) * 3), look=PALE)
    assert json.loads(json.dumps(of())) == of()


def test_noise_that_is_drawn_in_the_students_normalisation_makes_it_one():
    assert of(augment="deit", look=PALE) != of(augment="deit", look=LOOK)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (lambda: of(teacher_of(seed=1)), "teacher's weights"),
        (lambda: of(teacher_of(mean=(0.1,) * 3, std=(1.0,) * 3)), "teacher's mean and std"),
        (lambda: of(teacher_of(precision="bf16")), "teacher.precision"),
        (lambda: of(seed=1), "seed"),
        (lambda: of(views=1000), "views an epoch"),
        (lambda: of(look={**LOOK, "interpolation": "bilinear"}), "interpolation"),
    ],
)
def test_the_first_thing_that_differs_is_named(other, name):
    found = other()
    assert key_of(found, "labels") != key_of(of(), "labels") != key_of(of(), "logits")
    with pytest.raises(UserError, match=f"^the labels in here are of another run: {name} is "):
        check_same("here", of(), found)
    check_same("here", of(), of())


def test_logits_serve_all_and_labels_those_that_want_labels():
    for stored, wanted in (("logits", "labels"), ("logits", "logits"), ("labels", "labels")):
        check_form("here", stored, wanted, "a method")
    with pytest.raises(UserError, match="learns from its logits"):
        check_form("here", "labels", "logits", "deit-soft")


@pytest.mark.parametrize("form", ["labels", "logits"])
def test_rounding_is_no_other_answer_but_another_class_is(form):
    answers, logits = Answers(form, 3), torch.tensor([[4.0, 3.9999, -4.0], [0.0, 5.0, 1.0]])
    kept = answers.encode(logits)
    check_answers("here", answers, kept, logits, "fp32")
    tied = logits + torch.tensor([[-2e-4, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert tied.argmax(dim=1).tolist() != logits.argmax(dim=1).tolist()
    check_answers("here", answers, kept, tied, "fp32")
    other = logits + torch.tensor([[0.0, 0.0, 0.0], [0.0, -6.0, 0.0]])
    with pytest.raises(UserError, match=r"of a sample of 2 views 1 differ, the first is class 1"):
        check_answers("here", answers, kept, other, "fp32")
