"""The validation split: cut from the training set, fixed, in proportion, left out by every run."""

import json

import numpy as np
import pytest
from commands import invoke, refused
from conftest import FAST, quiet_train

from dearkd.config import load_config
from dearkd.data.datasets import open_data
from dearkd.data.order import stratified_rows, validation_rows
from dearkd.data.sources import SubsetSource
from dearkd.errors import UserError
from dearkd.judging.candidate import candidate_of
from dearkd.trained.resolve import resolve
from dearkd.training.build import build


def names(source):
    return {source.name(index) for index in range(len(source))}


def parts(*settings, **options):
    return build(load_config(None, [*FAST, *settings], {"method": "ce", **options}))


def test_the_split_and_what_is_left_are_all_images_once():
    whole = open_data("digits")[0]
    left, split = open_data("digits", validation=300)
    assert (len(left), len(split)) == (len(whole) - 300, 300)
    assert names(left).isdisjoint(names(split))
    assert names(left) | names(split) == names(whole)
    assert open_data("digits", validation=0.25)[1].labels.size == round(0.25 * len(whole))


@pytest.mark.parametrize("count", [10, 37, 500, 1400])
def test_every_class_has_its_share_to_within_one_image(count):
    labels = np.repeat([0, 1, 2, 3], [900, 300, 200, 100])
    np.random.default_rng(0).shuffle(labels)
    rows = validation_rows(labels, count)
    assert len(set(rows.tolist())) == count
    share = np.bincount(labels) * count / len(labels)
    assert np.abs(np.bincount(labels[rows], minlength=4) - share).max() < 1


def test_a_smaller_split_lies_within_a_larger_one_and_is_drawn_not_taken_in_order():
    labels = np.repeat(np.arange(10), 100)
    small, large = validation_rows(labels, 50), validation_rows(labels, 200)
    assert set(small) < set(large)
    assert np.abs(np.mean(large % 100) - 49.5) < 5
    # Drawn apart from data.fraction: a tenth is not the same tenth.
    assert len(np.intersect1d(validation_rows(labels, 100), stratified_rows(labels, 0.1, 0))) < 30


def test_it_is_the_same_for_every_seed_method_and_fraction(toy_teacher):
    runs = [
        parts("data.validation=200", seed=0),
        parts("data.validation=200", seed=1),
        parts("data.validation=200", "data.fraction=0.1"),
        parts(
            *("data.validation=200", "teacher.precision=fp32", "teacher.memory_format=contiguous"),
            **{"method": "deit-hard", "teacher.name": str(toy_teacher), "student": "toy_student"},
        ),
    ]
    assert all(names(run.evaluation) == names(runs[0].evaluation) for run in runs)
    assert all(names(run.train).isdisjoint(names(runs[0].evaluation)) for run in runs)


def test_a_fraction_is_one_of_what_the_split_leaves():
    whole = parts("data.validation=200")
    part = parts("data.validation=200", "data.fraction=0.1", "data.keep_steps=true")
    assert isinstance(part.train, SubsetSource)
    assert part.full_size == len(whole.train) == 1438 - 200
    assert names(part.train) < names(whole.train)
    share = np.bincount(part.train.labels) / np.bincount(whole.train.labels)
    assert np.abs(share - 0.1).max() < 0.005


def test_the_run_says_it_and_is_judged_on_it_again(tmp_path):
    folder = tmp_path / "run"
    options = {"method": "ce", "student": "toy_cnn", "stage1": 1, "stage2": 0, "out": str(folder)}
    quiet_train(options, ["data.validation=200"])
    summary = json.loads((folder / "summary.json").read_text())
    counts = [summary[key] for key in ("validation", "train_images", "eval_images")]
    assert counts == [200, 1238, 200]
    card = invoke("export", folder, "--to", "hf-folder", "--out", tmp_path / "card").output
    assert "200 validation images" in (tmp_path / "card" / "README.md").read_text(), card
    own = candidate_of(resolve(str(folder), "model"))
    assert names(own.source) == names(open_data("digits", validation=200)[1])
    assert len(candidate_of(resolve(str(folder), "model"), "digits").source) == 359
    result = invoke("eval", folder, "--json")
    assert json.loads(result.output)["logits"]["top1"] == summary["top1"]
    notes = parts("data.validation=200").choices
    assert "evaluation on 200 images cut from the training set" in notes


def test_other_evaluation_data_beside_it_is_refused(tmp_path):
    line = refused("train", "--eval-data", "digits", "--set", "data.validation=200", "--dry-run")
    assert "--eval-data digits has no effect beside data.validation=200" in line


@pytest.mark.parametrize("amount", [0.0001, 1430, 5000, 0.999])
def test_a_split_that_leaves_nothing_is_refused(amount):
    with pytest.raises(ValueError, match=rf"data\.validation={amount:g} of 1438 images must"):
        open_data("digits", validation=amount)


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), 0, -1])
def test_a_number_that_is_none_is_refused(amount):
    with pytest.raises(UserError, match=rf"data\.validation must be above 0 .*, got {amount}"):
        open_data("digits", validation=amount)
