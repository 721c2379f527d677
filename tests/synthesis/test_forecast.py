"""`dearkd synthesize --dry-run`: groups, and time, memory and disk near what a run takes."""

import re
import resource

import pytest
from typer.testing import CliRunner

from dearkd.cli.app import app
from dearkd.data.synthetic_set import CONFIG_FILE
from dearkd.synthesis.forecast import Work, _disk, _seconds, _Trial, work_of
from dearkd.synthesis.live import SynthesisProgress
from dearkd.synthesis.setup import prepare
from synth.groups import batches_of, plan_groups
from synth.objective_settings import ObjectiveConfig
from synth.settings import SynthesisConfig

SHORT = ["--iters", "10", "--per-class", "8", "--set", "precision=fp32"]
TRIAL = _Trial(
    seconds={8: 0.01, 16: 0.04},
    picture_seconds=0.5,
    picture_bytes=100.0,
    write_seconds=0.001,
    judge_seconds=0.002,
    image_bytes=700.0,
    record_bytes=400.0,
)


def config(**kwargs):
    settings = {"resolutions": (8, 16), "iterations": (100, 30), "per_class": 8, "log_interval": 50}
    return SynthesisConfig(**(settings | kwargs))


def work(settings, **kwargs):
    """Of two batches of 40 images."""
    batches = batches_of(plan_groups(settings, 10), 1)
    whole = {"ahead": batches, "rehearsals": 0, "tuned": False, "processes": 1}
    return Work(batches=batches, **(whole | kwargs))


def invoked(*args):
    result = CliRunner().invoke(app, ["synthesize", *map(str, args)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("form", ["png", "parquet"])
def test_a_dry_run_is_near_what_a_run_takes(tmp_path, form):
    line = [*SHORT, "--format", form, "--out", tmp_path / "set"]
    output = invoked(*line, "--dry-run")
    assert "80 images of 10 classes in 2 groups, 2 batches of at most 40 images" in output
    assert "16 px: " in output and "iterations/s in fp32" in output
    assert re.search(r"about 0:00:\d\d \(h:mm:ss\)", output)
    assert not (tmp_path / "set").exists()
    invoked(*line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    memory = float(re.search(r"([\d.]+) GiB on cpu", output)[1])
    assert peak / 1.5 < memory < 1.5 * peak
    disk = disk_of(output) * 2**20
    stored = sum(file.stat().st_size for file in (tmp_path / "set").rglob("*") if file.is_file())
    assert stored / 1.5 < disk < 1.5 * stored


def test_a_dry_run_is_not_ended_by_an_early_stop_or_by_rare_gradient_norms(tmp_path):
    settings = ["stop_cross_entropy=1000", "stop_window=50", "stop_bn_fall=0.99"]
    settings += ["iterations=[5,200]", "resolutions=[8,16]", "grad_norm_interval=150"]
    given = [part for setting in settings for part in ("--set", setting)]
    output = invoked(*SHORT[2:], *given, "--out", tmp_path / "set", "--dry-run")
    assert "16 px: " in output and "iterations/s in fp32" in output


def test_judging_writing_and_previews_are_in_the_time():
    settings = config()
    making = 2 * (100 * 0.01 + 30 * 0.04)
    previews = 2 * 3 * 0.5  # after 50, 100 and 30 iterations of both batches
    finish = 80 * (0.001 + 2 * 0.002)
    found = _seconds(settings, TRIAL, work(settings))
    assert found == pytest.approx(making + previews + finish)
    shared = (making + previews + 80 * 0.003) / 2 + 80 * 0.002  # one process merges
    assert _seconds(settings, TRIAL, work(settings, processes=2)) == pytest.approx(shared)


def test_a_set_that_goes_on_takes_what_is_left_of_it():
    """All images are judged again at the end; the weights are tuned already."""
    settings = config(objective=ObjectiveConfig(auto_weights=True))
    left = work(settings, tuned=True).batches[1:]
    making, previews = 100 * 0.01 + 30 * 0.04, 3 * 0.5
    finish = 40 * (0.001 + 0.002) + 80 * 0.002
    found = _seconds(settings, TRIAL, work(settings, ahead=left, tuned=True))
    assert found == pytest.approx(making + previews + finish)
    done = _seconds(settings, TRIAL, work(settings, ahead=(), tuned=True))
    assert done == pytest.approx(80 * 0.002)


def test_a_warm_up_is_in_the_time():
    settings = config(resolutions=(16,), iterations=(8,))
    for processes in (1, 2):
        cold = _seconds(settings, TRIAL, work(settings, rehearsals=20, processes=processes))
        warm = _seconds(settings, TRIAL, work(settings, processes=processes))
        assert cold - warm == pytest.approx(20 * 8 * 0.04 / processes)


def test_the_work_of_a_generator_is_read_from_its_chain(tmp_path, monkeypatch):
    folder, show, groups = tmp_path / "set", SynthesisProgress.group, []
    line = ["--engine", "generator", "--per-class", "12", "--images-per-batch", "40"]
    line += ["--set", "generator.warmup_batches=3", "--out", folder]

    def kill(self, images):
        groups.append(images)
        show(self, images)
        if len(groups) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SynthesisProgress, "group", kill)
    assert CliRunner().invoke(app, ["synthesize", *map(str, line)]).exit_code == 130
    setup = prepare(folder / CONFIG_FILE, [], stored=True)
    whole, left = work_of(setup), work_of(setup, begun=folder)
    assert whole.ahead == whole.batches == left.batches and len(whole.batches) == 3
    assert (whole.rehearsals, whole.tuned) == (3, False)
    assert left.ahead == whole.batches[1:]  # its state was written after the first
    assert (left.rehearsals, left.tuned) == (0, True)


def test_a_dry_run_of_a_set_that_goes_on_says_what_is_left(tmp_path):
    folder = tmp_path / "set"
    invoked(*SHORT, "--out", folder)
    for file in (folder / ".parts" / "group_000001.json", folder / "manifest.json"):
        file.unlink()
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    output = invoked("--resume", "--out", folder, "--dry-run")
    assert "80 images of 10 classes in 2 groups, 2 batches of at most 40 images" in output
    assert "; left: 40 images in 1 batch\n" in output
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    (folder / ".parts" / "group_000000.json").rename(tmp_path / "part")
    whole = invoked("--resume", "--out", folder, "--dry-run")
    assert "left: " not in whole  # nothing of it is done
    assert disk_of(output) < disk_of(whole)


def disk_of(output):
    return float(re.search(r"([\d.]+) MiB of disk", output)[1])


def test_pilot_runs_are_in_the_time():
    plain = config()
    tuned = config(objective=ObjectiveConfig(auto_weights=True, auto_iterations=50))
    more = _seconds(tuned, TRIAL, work(tuned)) - _seconds(plain, TRIAL, work(plain))
    assert more == pytest.approx(2 * 50 * 0.01)


def test_records_stand_on_disk_twice_and_pictures_are_counted():
    expected = 80 * (700 + 2 * 400) + (40 + 10 * 8) * 100
    assert _disk(TRIAL, images=80, classes=10, width=40) == pytest.approx(expected, abs=8192)
