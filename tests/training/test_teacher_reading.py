"""The teacher's top-1 on its student's evaluation images: read at the start, kept, warned of."""

import dataclasses

import numpy as np
import pytest
import torch

from dearkd.config import TrainConfig
from dearkd.run_folder.processes import process_accelerator
from dearkd.training.build import build
from dearkd.training.teacher_reading import teacher_reading, teacher_told


@pytest.fixture
def parts():
    return build(
        TrainConfig(method="deit-hard", student="dearkd_micro_patch4_32", stage1=1, stage2=0)
    )


def read(parts):
    return teacher_reading(parts, process_accelerator())


def test_it_is_the_teachers_answers_counted_one_by_one(parts):
    teacher, evaluation = parts.teacher.model, parts.evaluation
    cfg, right = teacher.pretrained_cfg, 0
    mean, std = (torch.tensor(cfg[key]).double()[:, None, None] for key in ("mean", "std"))
    side = parts.config.data.img_size
    for row in range(len(evaluation)):
        picture = evaluation.image(row).convert("RGB").resize((side, side), 3)  # bicubic
        pixels = torch.from_numpy(np.array(picture)).double().permute(2, 0, 1) / 255
        answer = teacher.double()(((pixels - mean) / std)[None]).argmax()
        right += int(answer) == int(evaluation.labels[row])
    teacher.float()
    assert read(parts)["top1"] == pytest.approx(100 * right / len(evaluation))


def test_a_teacher_whose_classes_are_out_of_order_is_warned_of(parts):
    assert teacher_told(read(parts), parts).startswith("teacher: digits is right on 99.")
    last = parts.teacher.model.get_classifier()
    with torch.no_grad():
        for values in (last.weight, last.bias):
            values.copy_(values.roll(1, 0))
    told = teacher_told(read(parts), parts)
    assert told.startswith("warning: digits is right on")
    assert "order of its classes" in told


def test_more_evaluation_images_than_the_teacher_answers_in_training_are_not_read(parts):
    few = dataclasses.replace(parts, train=parts.evaluation)
    assert read(few) is not None
    none = dataclasses.replace(few, stages=[dataclasses.replace(parts.stages[0], epochs=0)])
    assert read(none) is None


def test_without_a_teacher_nothing_is_read_or_said():
    parts = build(TrainConfig(method="ce", student="dearkd_micro_patch4_32", stage1=1, stage2=0))
    assert read(parts) is None
    assert teacher_told(None, parts) is None
