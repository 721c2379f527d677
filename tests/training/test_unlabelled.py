"""Training on images without labels: the teacher's take their place, and no others do."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import invoke, refused
from conftest import FAST, FAST_TEACHER
from rich.console import Console

from dearkd import train
from dearkd.config import load_config
from dearkd.data.datasets import open_data
from dearkd.report.collect import collect
from dearkd.report.curves_chapter import curve_section
from dearkd.run_folder.folder import RunFolder
from dearkd.training import train as launch
from dearkd.training.build import build
from dearkd.training.progress import RunProgress

PHOTOS, JUDGED = 96, 40
SHORT = {"student": "toy_student", "stage1": 2, "data.img_size": 16}
SETTINGS = ["data.batch_size=32", "data.mixup=0.8", "data.augment=light", "optim.drop_path=0.1"]
STEPS = PHOTOS // 32


class Killed(BaseException):
    """As sudden as kill -9."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Digits as pictures without labels (photos), and labelled ones to judge on (judged)."""
    root = tmp_path_factory.mktemp("data")
    train, test = open_data("digits")
    (root / "photos").mkdir()
    for row in range(PHOTOS):
        train.image(row).save(root / "photos" / f"{row}.png")
    for row in range(JUDGED):
        folder = root / "judged" / str(test.labels[row])
        folder.mkdir(parents=True, exist_ok=True)
        test.image(row).save(folder / f"{row}.png")
    return root


def run(out, data, teacher, settings=(), said=None, **options):
    given = {**SHORT, "teacher.name": str(teacher), "out": str(out)}
    given |= {"data.train": str(data / "photos"), "data.evaluation": str(data / "judged")}
    config = load_config(None, [*FAST, *FAST_TEACHER, *SETTINGS, *settings], given | options)
    launch.train(config, console=Console(file=said or io.StringIO(), width=500))
    return out


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def terms(folder):
    return [
        (line["stage"], line.keys() & {"class", "class_distillation", "distillation", "hidden"})
        for line in RunFolder(folder).read_metrics()
    ]


STAGE1 = ("stage1", {"class_distillation", "distillation", "hidden"})
STAGE2 = ("stage2", {"class_distillation", "distillation"})


@pytest.fixture(scope="module")
def taught(tmp_path_factory, data, toy_teacher):
    """A run with a typed second stage, and what was said in it."""
    said = io.StringIO()
    place = tmp_path_factory.mktemp("taught") / "run"
    return run(place, data, toy_teacher, said=said, stage2=1), said.getvalue()


def test_there_is_no_second_stage_unless_it_is_typed(data, toy_teacher, tmp_path):
    said = io.StringIO()
    folder = run(tmp_path / "run", data, toy_teacher, said=said)
    assert terms(folder) == [STAGE1] * 2
    assert summary(folder)["stages"] == {"stage1": 2}
    assert summary(folder)["eval_images"] == JUDGED
    assert summary(folder)["top1"] is not None
    stored = RunFolder(folder).read_config()
    assert (stored.data.labels, stored.distill.class_weight, stored.stage2) == ("none", 0, 0)
    assert "the images have no labels: the teacher alone labels every view" in said.getvalue()
    assert "no stage 2 (--stage2 N has one, on the teacher's hard labels)" in said.getvalue()
    assert "photos without labels, 2 epochs" in said.getvalue()


def test_a_typed_second_stage_is_on_the_teachers_labels(taught):
    folder, said = taught
    assert terms(folder) == [STAGE1, STAGE1, STAGE2]
    assert "teacher_agreement" in RunFolder(folder).read_metrics()[-1]
    assert "stage 2 is on the teacher's hard labels alone" in said


@pytest.mark.parametrize("step", [STEPS + 1, 2 * STEPS + 2])
def test_a_killed_run_ends_with_the_same_bits(step, data, toy_teacher, taught, tmp_path):
    count, folder = 0, tmp_path / "run"

    def stepped(*_):
        nonlocal count
        count += 1
        if count == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunProgress, "step", stepped)
        with pytest.raises(Killed):
            run(folder, data, toy_teacher, ["checkpoint_minutes=1e-9"], stage2=1)
    begun = RunFolder(folder)
    launch.train(
        begun.read_config(), console=Console(file=io.StringIO()), folder=begun, resume=True
    )
    assert weights(folder) == weights(taught[0])


def test_kept_labels_serve_both_stages(data, toy_teacher, taught, tmp_path):
    for name, answers in (("writer", (0, 288)), ("reader", (288, 0))):
        cache = {"cache_labels": str(tmp_path / "labels"), "stage2": 1}
        folder = run(tmp_path / name, data, toy_teacher, **cache)
        kept = summary(folder)["teacher_labels"]
        assert (kept["read"], kept["computed"]) == answers
        assert weights(folder) == weights(taught[0])


def test_labels_are_kept_of_a_second_stage_alone(data, toy_teacher, tmp_path):
    cache = {"cache_labels": str(tmp_path / "labels"), "stage1": 0, "stage2": 1}
    folder = run(tmp_path / "run", data, toy_teacher, **cache)
    assert terms(folder) == [STAGE2]
    assert summary(folder)["teacher_labels"]["computed"] == PHOTOS


def test_labels_that_are_left_out_change_nothing(data, toy_teacher, tmp_path):
    images, truth = [], open_data("digits")[0].labels[:PHOTOS]
    for row in range(PHOTOS):
        images.append({"bytes": (data / "photos" / f"{row}.png").read_bytes(), "path": None})
    labels = {"right": truth, "wrong": np.roll(truth, 1), "bare": None}
    for name, column in labels.items():
        table = {"image": images} | ({} if column is None else {"label": column})
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    made = {
        name: run(
            tmp_path / name,
            data,
            toy_teacher,
            stage1=1,
            **{"data.train": str(tmp_path / f"{name}.parquet"), "data.labels": "none"},
        )
        for name in labels
    }
    known = run(
        tmp_path / "known",
        data,
        toy_teacher,
        ["distill.class_weight=0"],
        stage1=1,
        stage2=0,
        **{"data.train": str(tmp_path / "right.parquet")},
    )
    assert len({weights(folder) for folder in (*made.values(), known)}) == 1


def test_the_verbs_take_such_a_run(data, toy_teacher, taught, tmp_path):
    folder = taught[0]
    judged = invoke("eval", folder, "--json")
    assert judged.exit_code == 0, judged.output
    assert json.loads(judged.stdout)["logits"]["top1"] == summary(folder)["top1"]
    told = refused("eval", folder, "--data", data / "photos")
    assert "holds no class folders; put each class's images into a folder of its own" in told
    assert "(pictures without classes are for dearkd predict)" in told
    predicted = invoke("predict", folder, data / "photos" / "3.png")
    assert predicted.exit_code == 0, predicted.output
    report = collect([folder])
    assert report.runs[0].learned_by == "DearKD, two stages, images without labels"
    sentence = curve_section(report).lead
    assert "from then on labels alone (the teacher's for run)." in sentence
    page = invoke("report", folder, "--out", tmp_path / "page.html")
    assert page.exit_code == 0, page.output


def test_pictures_are_typed_in_the_shell_and_from_python(data, toy_teacher, tmp_path):
    quick = [part for setting in [*FAST[:3], *SETTINGS] for part in ("--set", setting)]
    line = ["train", "--teacher", toy_teacher, "--student", "toy_student", "--img-size", "16"]
    line += ["--stage1", "1", *quick]
    dry = invoke(*line, "--data", data / "photos", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "labels: none" in dry.output
    assert "images/s in stage2" not in dry.output
    forced = invoke(*line, "--data", data / "judged", "--unlabelled", "--out", tmp_path / "forced")
    assert forced.exit_code == 0, forced.output
    assert "no evaluation images: no top-1" in forced.output
    assert summary(tmp_path / "forced")["top1"] is None
    assert summary(tmp_path / "forced")["train_images"] == JUDGED
    fields = {"student": "toy_student", "stage1": 1, "data__img_size": 16, "trackers": []}
    made = train(
        data=data / "photos",
        teacher=str(toy_teacher),
        out=tmp_path / "python",
        data__fraction=0.5,
        **fields,
    )
    assert made.summary["train_images"] == PHOTOS // 2
    assert made.trained.class_names == tuple("0123456789")


@pytest.mark.parametrize("method", ["deit-hard", "deit-soft"])
def test_other_methods_learn_from_the_teacher_alone(method, data, toy_teacher, tmp_path):
    folder = run(tmp_path / "run", data, toy_teacher, method=method, stage1=1, stage2=1)
    assert terms(folder) == [(method, {"class_distillation", "distillation"})] * 2
    assert summary(folder)["stages"] == {method: 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--method ce",
            "method ce needs labels, and PHOTOS has no labels; put each class's images",
        ),
        ("--set distill.class_weight=0.5", "distill.class_weight=0.5 has no effect, as PHOTOS has"),
        ("--set distill.alpha=0.3", "distill.alpha=0.3 has no effect with distill.class_weight=0"),
        (
            "--set data.smoothing=0.2",
            "data.smoothing=0.2 has no effect where no labels are",
        ),
        ("--set data.validation=0.1", "data.validation=0.1 has no effect on images without labels"),
        ("--stage1 auto --epochs 50", "stage1=auto has no effect without a stage 2, and PHOTOS"),
        ("--set data.labels=some", "data.labels: Invalid value 'some'"),
    ],
)
def test_what_needs_labels_is_refused(line, message, data, toy_teacher, tmp_path):
    photos, out = data / "photos", tmp_path / "run"
    teacher = [] if "ce" in line.split() else ["--teacher", toy_teacher]
    words = ["train", "--data", photos, "--student", "toy_student", "--img-size", "16", *teacher]
    assert message.replace("PHOTOS", str(photos)) in refused(*words, *line.split(), "--out", out)
    assert not out.exists()


def test_a_teacher_is_not_trained_without_labels(data, tmp_path):
    message = refused("teacher", "toy_cnn", "--data", data / "photos", "--out", tmp_path / "run")
    assert "method ce needs labels" in message
    given = refused("train", "--unlabelled", "--method", "ce")
    assert "--unlabelled leaves those of digits out; leave --unlabelled out, or" in given
    forced = ["--set", "data.labels=none", "--set", "data.validation=9"]
    assert "with data.labels=none, as accuracy needs labels" in refused("train", *forced)


def test_evaluation_classes_that_the_teacher_lacks_are_named(data, toy_teacher, tmp_path):
    other = tmp_path / "other"
    (other / "cat").mkdir(parents=True)
    (other / "cat" / "0.png").write_bytes((data / "photos" / "0.png").read_bytes())
    words = ["--teacher", toy_teacher, "--student", "toy_student", "--img-size", "16"]
    line = ["train", "--data", data / "photos", "--eval-data", other, *words]
    assert "evaluation data: 1 of 1 data classes are unknown to the model's 10" in refused(*line)
    line = ["train", "--data", other, *words]
    assert "cat; rename them, remove them" in refused(*line)
    assert "or leave their labels out by --unlabelled" in refused(*line)


@pytest.mark.parametrize(
    ("side", "labels", "wanted"),
    [(32, "none", "crops"), (31, "none", "light"), (32, "auto", "light")],
)
def test_a_small_student_sees_parts_of_large_pictures_without_labels(
    tmp_path, toy_teacher, side, labels, wanted
):
    train = open_data("digits")[0]
    for row in range(12):
        place = tmp_path / "pictures" / str(row % 2)
        place.mkdir(parents=True, exist_ok=True)
        train.image(row).resize((side, 20)).save(place / f"{row}.png")
    given = {**SHORT, "teacher.name": str(toy_teacher), "data.train": str(tmp_path / "pictures")}
    config = load_config(None, [*FAST, *FAST_TEACHER, f"data.labels={labels}"], given)
    parts = build(config)
    assert parts.config.data.augment == wanted
    assert any("parts of the pictures" in note for note in parts.choices) == (wanted == "crops")
