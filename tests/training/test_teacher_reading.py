"""The teacher's top-1 on its student's evaluation images: read at the start, kept, warned of."""

import dataclasses

import numpy as np
import pytest
import torch

from dearkd.config import TrainConfig
from dearkd.data.sources import SubsetSource
from dearkd.run_folder.processes import process_accelerator
from dearkd.training.batches import evaluation_images
from dearkd.training.build import build
from dearkd.training.teacher_reading import _chance_bound, teacher_line, teacher_reading


@pytest.fixture
def parts():
    student = "dearkd_micro_patch4_32"
    return build(TrainConfig(method="deit-hard", student=student, stage1=1, stage2=0))


def read(parts):
    accelerator = process_accelerator()
    return teacher_reading(parts, evaluation_images(parts, accelerator), accelerator)


def with_data(parts, **settings):
    data = dataclasses.replace(parts.config.data, **settings)
    return dataclasses.replace(parts, config=dataclasses.replace(parts.config, data=data))


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
    expected = {"top1": pytest.approx(100 * right / 359), "top5": 100.0, "images": 359}
    assert read(parts) == expected
    assert read(with_data(parts, micro_batch=8)) == expected  # in passes as small as in training


def test_a_teacher_whose_classes_are_out_of_order_is_warned_of(parts):
    assert teacher_line(read(parts), parts).startswith("teacher: digits is right on 99.")
    last = parts.teacher.model.get_classifier()
    with torch.no_grad():
        for values in (last.weight, last.bias):
            values.copy_(values.roll(1, 0))
    told = teacher_line(read(parts), parts)
    assert told.startswith("warning: digits is right on")
    assert "of 359 evaluation images" in told
    assert told.endswith("order of its classes")
    larger = teacher_line(read(parts), with_data(parts, img_size=32))
    assert larger.endswith(", and the images' 32 px: it was made for 16 (--img-size 16)")


@pytest.mark.parametrize(
    ("counts", "bound"),
    [((50, 50), 0.65), ((95, 5), None), ((7,), None), ((4, 4), None), ((9, 1) * 100, 0.018)],
)
def test_who_guesses_is_told_where_enough_images_tell_it(counts, bound):
    labels = np.repeat(np.arange(len(counts)), counts)
    assert _chance_bound(labels) == (None if bound is None else pytest.approx(bound, abs=4e-3))


def test_a_perfect_teacher_of_few_images_is_not_warned_of(parts):
    few = dataclasses.replace(parts, evaluation=SubsetSource(parts.evaluation, np.arange(3)))
    assert (
        teacher_line(read(few), few)
        == "teacher: digits is right on 100.00 % of 3 evaluation images"
    )


def test_more_evaluation_images_than_the_teachers_views_are_not_read(parts):
    fewer = SubsetSource(parts.train, np.arange(200))
    once = with_data(dataclasses.replace(parts, train=fewer), batch_size=100)
    assert read(once) is None  # 200 views, 359 images
    (stage,) = once.stages
    twice = dataclasses.replace(once, stages=[dataclasses.replace(stage, epochs=2)])
    assert read(twice) is not None
    assert read(with_data(once, keep_steps=True)) is not None  # as many views as of all images


def test_without_a_teacher_nothing_is_read():
    assert read(build(TrainConfig(method="ce", student="dearkd_micro_patch4_32", stage1=1))) is None
