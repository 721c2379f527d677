"""A run that is what it says passes every check; each kind of damage is told by its own."""

import json
import shutil

import pytest
import torch
from commands import invoke, refused
from safetensors.torch import load_file, save_file

from dearkd.verify import run_checks


def verdicts(folder, *more):
    result = invoke("verify", folder, "--json", *more)
    content = json.loads(result.stdout)
    return result.exit_code, {c["name"]: (c["verdict"], c["told"]) for c in content["checks"]}


@pytest.fixture
def run(toy_teacher, tmp_path):
    return shutil.copytree(toy_teacher, tmp_path / "run")


def changed(file, **fields):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **fields}))


def test_a_run_repeats_its_evaluation_to_the_last_image(run):
    code, checks = verdicts(run)
    assert code == 0
    assert {name: verdict for name, (verdict, _) in checks.items()} == dict.fromkeys(
        ("files", "configuration", "epochs", "weights", "evaluation", "here"), "holds"
    )
    assert "of 359 images again, to the last image" in checks["evaluation"][1]
    assert "no check failed" in invoke("verify", run, "--no-evaluation").output


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "model.safetensors"])
def test_a_changed_byte_is_told(run, name):
    with (run / name).open("ab") as file:
        file.write(b"\n")
    code, checks = verdicts(run, "--no-evaluation")
    assert code == 1
    assert checks["files"] == ("fails", f"{name} is not the file that the run left")


def test_a_file_that_is_gone_and_one_outside_are_told(run):
    (run / "checkpoint" / "best.safetensors").unlink()
    assert verdicts(run, "--no-evaluation")[1]["files"] == (
        "fails",
        "checkpoint/best.safetensors is gone",
    )
    changed(run / "summary.json", files={"../other": "0"})
    assert "../other is outside of the run" in verdicts(run, "--no-evaluation")[1]["files"][1]


def test_a_better_number_in_the_summary_is_told(run):
    changed(run / "summary.json", top1=99.9, seed=7)
    code, checks = verdicts(run)
    assert code == 1
    assert checks["epochs"][0] == "fails"
    assert "top1 is 99.9 in summary.json and" in checks["epochs"][1]
    assert checks["configuration"] == ("fails", "seed is 0 in config.yaml and 7 in summary.json")


def test_better_heads_in_the_summary_are_told_by_judging_again(run):
    heads = json.loads((run / "summary.json").read_text())["heads"]
    heads["logits"]["top1"] += 100 * 3 / 359
    changed(run / "summary.json", heads=heads)
    code, checks = verdicts(run)
    assert code == 1
    assert checks["evaluation"] == ("fails", "top1 of logits differs by 3 images of 359")
    changed(run / "summary.json", threads=64)
    code, checks = verdicts(run)
    assert code == 0
    assert checks["evaluation"][0] == checks["here"][0] == "open"
    assert "threads 64 there, " in checks["here"][1]


def test_a_session_on_another_machine_leaves_it_open(run):
    sessions = json.loads((run / "summary.json").read_text())["sessions"]
    later = sessions[0] | {"threads": 63, "processes": 2, "versions": {"torch": "1.0"}}
    changed(run / "summary.json", sessions=[*sessions, later, later])
    verdict, told = verdicts(run, "--no-evaluation")[1]["here"]
    assert verdict == "open"
    for words in ("torch 1.0 there, ", "threads 63 there, ", "it ran in several processes"):
        assert told.count(words) == 1


def test_the_device_is_the_one_that_is_computed_on(run, monkeypatch):
    """A run on the CPU of a machine with a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    summary = json.loads((run / "summary.json").read_text())
    assert not any("device" in told for told in run_checks._unlike(summary))


def test_missing_epochs_and_numbers_that_are_none_are_told(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(lines[1] + "\n")
    assert "has 1 line, not those of 2" in verdicts(run, "--no-evaluation")[1]["epochs"][1]
    first = {**json.loads(lines[0]), "loss": float("nan")}
    (run / "metrics.jsonl").write_text(json.dumps(first) + "\n" + lines[1] + "\n")
    assert verdicts(run, "--no-evaluation")[1]["epochs"] == ("fails", "loss of epoch 1 is nan")


def test_weights_that_are_not_finite_are_told(run):
    state = load_file(run / "model.safetensors")
    state["fc.bias"][:2] = torch.nan
    save_file(state, run / "model.safetensors")
    told = verdicts(run, "--no-evaluation")[1]["weights"]
    assert told == ("fails", "fc.bias has 2 numbers that are not finite")


def test_a_damaged_weights_file_is_told_and_ends_nothing(run):
    (run / "model.safetensors").write_bytes(b"nothing")
    code, checks = verdicts(run)
    assert code == 1
    assert checks["weights"][0] == checks["evaluation"][0] == "fails"
    assert checks["here"][0] == "holds"


def test_images_that_are_elsewhere_leave_the_evaluation_open(run, tmp_path):
    """As after a copy to another machine: nothing of the run has changed."""
    text = (run / "config.yaml").read_text()
    assert "evaluation: null" in text
    (run / "config.yaml").write_text(
        text.replace("evaluation: null", f"evaluation: {tmp_path / 'elsewhere' / 'val'}")
    )
    _, checks = verdicts(run)
    assert checks["evaluation"][0] == "open"
    assert "elsewhere/val" in checks["evaluation"][1]
    (run / "model.safetensors").unlink()
    assert verdicts(run)[1]["evaluation"][0] == "fails"


def test_trust_where_nothing_brings_code_is_refused_and_fails_no_run(run):
    line = refused("verify", run, "--trust")
    assert f"--trust has no effect: {run} runs no code; leave it out" in line
    line = refused("verify", run, "--trust", "--no-evaluation")
    assert "--trust has no effect with --no-evaluation" in line
    (run / "model.safetensors").write_bytes(b"nothing")
    assert verdicts(run, "--trust")[1]["weights"][0] == "fails"


def test_a_run_of_an_older_version_has_no_hashes(run):
    content = json.loads((run / "summary.json").read_text())
    for name in ("files", "memory_format", "threads", "sessions", "processes", "versions"):
        del content[name]
    (run / "summary.json").write_text(json.dumps(content))
    code, checks = verdicts(run, "--no-evaluation")
    assert code == 0
    assert checks["files"][0] == checks["here"][0] == "open"
    assert "threads not known there" in checks["here"][1]


def test_a_damaged_summary_is_told_in_one_line(run):
    (run / "summary.json").write_text('{"top1": 9')
    assert "summary.json cannot be read" in refused("verify", run)
    (run / "summary.json").write_text('{"top1": "high"}')
    assert "is not one that dearkd writes (top1 is 'high'); restore it" in refused("verify", run)
    (run / "summary.json").write_text("{}")
    assert invoke("verify", run).exit_code == 1


@pytest.mark.parametrize(
    ("file", "verb"),
    [("config.yaml", "train"), ("distill.yaml", "distill"), ("synthesize.yaml", "synthesize")],
)
def test_the_command_that_goes_on_can_be_pasted(tmp_path, file, verb):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / file).write_text("{}")
    if verb == "distill":  # config.yaml is written at the end, before the summary
        (folder / "config.yaml").write_text("{}")
    told = f"{folder} is not finished; go on with dearkd {verb} --resume --out '{folder}'"
    assert told in refused("verify", folder)


def test_what_cannot_be_verified_is_refused(run, tmp_path):
    (run / "summary.json").unlink()
    assert "is not finished; go on with dearkd train --resume" in refused("verify", run)
    (tmp_path / "empty").mkdir()
    assert "neither a run folder nor a synthetic set" in refused("verify", tmp_path / "empty")
    assert "does not exist" in refused("verify", tmp_path / "nowhere")
