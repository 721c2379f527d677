"""`dearkd eval SET --probe`: what a small student learns from a set, and what is refused."""

import json
import os
import shutil
import signal

import pytest
import yaml
from commands import invoke, refused
from conftest import opened, quiet_train
from PIL import Image

from dearkd.data.sources import DigitsSource
from dearkd.measures import probe_student
from dearkd.measures.probe_student import ProbeRequest, open_probe
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.processes import process_accelerator
from dearkd.trained.resolve import resolve

STEPS, BATCH = 4, 12


@pytest.fixture(autouse=True)
def small_budget(monkeypatch):
    monkeypatch.setattr(probe_student, "STUDENT", "toy_cnn")
    monkeypatch.setattr(probe_student, "STEPS", STEPS)
    monkeypatch.setattr(probe_student, "BATCH", BATCH)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twenty images out of the embedded teacher, as `dearkd synthesize` leaves them."""
    folder = tmp_path_factory.mktemp("made") / "set"
    result = invoke("synthesize", "--res", 16, "--iters", 2, "--per-class", 2, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


def folder_of(root, images):
    """An image folder of (class name, picture) pairs."""
    for number, (name, picture) in enumerate(images):
        (root / name).mkdir(parents=True, exist_ok=True)
        picture.save(root / name / f"{number}.png")
    return root


def digits(count):
    """Real training digits, at the teacher's own 16 px."""
    source = DigitsSource("train")
    for row in range(count):
        picture = source.image(row).convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
        yield str(source.labels[row]), picture


def probed(*args):
    result = invoke("eval", *args, "--probe", "--against", "digits", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def probe_of(data, teacher="digits", seed=0):
    request = ProbeRequest(str(data), "digits", resolve(teacher), seed, "skip")
    return open_probe(request, process_accelerator())


def test_a_set_that_says_its_teacher_is_probed_and_keeps_the_number_with_its_budget(copy):
    told = invoke("eval", copy, "--probe", "--against", "digits")
    assert told.exit_code == 0, told.output
    forecast = f"probe student: toy_cnn on 20 images of 16 px, {STEPS} steps of {BATCH}, about"
    assert forecast in told.stderr
    assert "top-1 of a probe student on 359 images" in " ".join(told.stdout.split())
    stored = json.loads((copy / "diversity.json").read_text())
    budget = stored["probe"]["budget"]
    assert (budget["student"], budget["steps"], budget["batch_size"]) == ("toy_cnn", STEPS, BATCH)
    assert (budget["logits"], budget["img_size"]) == ("soft", 16)
    assert stored["probe"]["train_images"] == 20
    assert stored["probe"]["eval_images"] == 359
    assert stored["probe"]["teacher"] == "digits"
    again = probed(copy)
    assert again["probe_top1"] == stored["probe_top1"]
    assert again["probe"]["top5"] == stored["probe"]["top5"]


def test_it_is_the_run_that_the_training_door_makes(tmp_path):
    """Of a set with as many images as the budget has views, one epoch of `dearkd train`."""
    data = folder_of(tmp_path / "set", digits(STEPS * BATCH))
    options = {"method": "deit", "student": "toy_cnn", "stage1": 1, "stage2": 0}
    options |= {"data.train": str(data), "data.evaluation": "digits", "data.img_size": 16}
    options |= {"teacher.name": "digits", "out": str(tmp_path / "run")}
    chosen = ["data.augment=light", "data.flip=false", f"data.batch_size={BATCH}"]
    taught = ["distill.logits=soft", "distill.class_weight=0", "distill.temperature=4"]
    quiet_train(options, [*chosen, *taught, "teacher.precision=auto", "teacher.memory_format=auto"])
    probe = probe_of(data)
    found = probe.result(lambda views: None)
    summary = json.loads(RunFolder(tmp_path / "run").summary_file.read_text())
    assert (found["probe_top1"], found["probe"]["top5"]) == (summary["top1"], summary["top5"])
    trained = opened(tmp_path / "run").network.state_dict()
    for name, tensor in probe.parts.student.state_dict().items():
        assert tensor.equal(trained[name]), name


@pytest.mark.parametrize("images", [20, 100])
def test_every_set_gets_the_same_number_of_views(tmp_path, images):
    seen = []
    probe_of(folder_of(tmp_path, digits(images)), seed=1).result(seen.append)
    assert seen == [BATCH] * STEPS


def test_it_learns_what_the_images_show(tmp_path, monkeypatch):
    monkeypatch.setattr(probe_student, "STUDENT", "dearkd_resnet10t_32")
    monkeypatch.setattr(probe_student, "STEPS", 30)
    monkeypatch.setattr(probe_student, "BATCH", 32)
    found = probe_of(folder_of(tmp_path, digits(200))).result(lambda views: None)
    assert found["probe_top1"] > 30  # chance: 10


def test_neither_a_probe_nor_the_other_measures_wipe_out_what_the_others_stored(copy, toy_teacher):
    def stored():
        return json.loads((copy / "diversity.json").read_text())

    probed(copy)
    probe = stored()["probe"]
    assert invoke("eval", copy, "--verifier", toy_teacher).exit_code == 0
    assert stored()["probe"] == probe
    judged = stored()["verifier"]
    other = probed(copy, "--seed", 3)["probe"]
    assert other["top5"] != probe["top5"]
    assert stored()["probe"] == other
    assert stored()["verifier"] == judged
    assert invoke("eval", copy, "--features", toy_teacher, "--limit", 2).exit_code == 0
    assert (stored()["verifier"], stored()["probe"]) == (judged, other)
    assert (judged["limit"], stored()["features"]["limit"]) == (None, 2)


def test_an_interrupted_probe_leaves_the_stored_result_as_it_was(copy, monkeypatch, tmp_path):
    probed(copy)
    before = (copy / "diversity.json").read_bytes()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def asked_to_stop(self, step, images, terms):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(probe_student._Views, "step", asked_to_stop)
    out = tmp_path / "result.json"
    result = invoke("eval", copy, "--probe", "--against", "digits", "--seed", 5, "--out", out)
    assert result.exit_code == 75, result.output
    assert "nothing was written" in result.stderr
    assert (copy / "diversity.json").read_bytes() == before
    assert not out.exists()
    assert not [*tmp_path.glob("dearkd-probe-*")]


def test_what_does_not_fit_is_refused_in_a_line(copy, tmp_path, monkeypatch):
    against = ["--probe", "--against", "digits"]
    assert "name them by --against" in refused("eval", copy, "--probe")
    assert "--teacher digits has no effect without --probe" in refused(
        "eval", copy, "--verifier", "digits", "--teacher", "digits"
    )
    assert "--limit 5 has no effect" in refused("eval", copy, *against, "--limit", 5)
    plain = folder_of(tmp_path / "plain", digits(20))
    assert "does not say which it was made from; add --teacher" in refused("eval", plain, *against)
    teacher = ["--teacher", "digits"]
    own = refused("eval", plain, "--probe", "--against", plain, *teacher)
    assert "on the images that it learns from" in own
    others = folder_of(tmp_path / "others", ((f"class {name}", one) for name, one in digits(20)))
    assert "unknown" in refused("eval", others, *against, *teacher)
    assert "unknown" in refused("eval", copy, "--probe", "--against", others)
    bare = tmp_path / "bare"
    bare.mkdir()
    next(digits(1))[1].save(bare / "one.png")
    assert str(bare) in refused("eval", copy, "--probe", "--against", bare)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["config"]["resolutions"] = [8]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert "has images of 8 px and teacher digits takes 16" in refused("eval", copy, *against)
    monkeypatch.setattr(probe_student, "SMALL", 12)
    assert "8 to 12 px, and teacher digits takes 16" in refused("eval", copy, *against)
    assert not (copy / "diversity.json").exists()


def test_a_set_whose_teacher_has_moved_says_how_to_name_it(copy):
    file = copy / "synthesize.yaml"
    config = yaml.safe_load(file.read_text())
    config["teacher"] = {"name": "dearkd_cnn8_32", "weights": "/gone/cnn.safetensors"}
    file.write_text(yaml.safe_dump(config))
    message = refused("eval", copy, "--probe", "--against", "digits")
    assert "was made from dearkd_cnn8_32, whose weights /gone/cnn.safetensors" in message
    assert "add --teacher dearkd_cnn8_32 --teacher-weights FILE" in message
