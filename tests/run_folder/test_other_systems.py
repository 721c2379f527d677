"""What other systems lack is not missed: tried here by taking it away from a fresh process."""

import json
import subprocess
import sys

import pytest

SCRIPT = '''
import fcntl, importlib, json, os, pkgutil, sys, types, warnings
from pathlib import Path

class Blocked:
    """Neither module is there on Windows."""

    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource"):
            raise ModuleNotFoundError(name)

real = sys.modules.pop("fcntl")
sys.modules.pop("resource", None)
sys.meta_path.insert(0, Blocked())
del os.sched_getaffinity  # macOS has none either

import dearkd, synth
from typer.testing import CliRunner

found = {"failed": [], "modules": 0}
for package in (dearkd, synth):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        found["modules"] += 1
        try:
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        except ImportError as error:
            found["failed"].append(f"{module.name}: {error}")
import torch

from dearkd.cli.app import app
from dearkd.config import TrainConfig
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.processes import peak_memory
from synth.cores import usable_cores

found["help"] = CliRunner().invoke(app, ["--help"]).exit_code
found["doctor"] = json.loads(CliRunner().invoke(app, ["doctor", "--quick", "--json"]).stdout)
found["peak_memory"], found["usable_cores"] = peak_memory(torch.device("cpu")), usable_cores()

# What Windows has instead, by this system's means: lock a byte range now, or raise OSError.
def locking(handle, mode, size):
    assert (os.lseek(handle, 0, os.SEEK_CUR), mode, size) == (0, "now", 1)
    real.flock(handle, real.LOCK_EX | real.LOCK_NB)

sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK="now")
warnings.simplefilter("error", EncodingWarning)  # of a file in the locale's encoding
run = RunFolder(Path(sys.argv[1]))
with run.locked(resume=False):
    run.write_config(TrainConfig())
    run.read_config()
    run.write_summary({})
    run.append_metrics({"epoch": 0})
    run.truncate_metrics(1)
    try:
        with RunFolder(run.path).locked(resume=True):
            found["second"] = "came in"
    except ValueError as error:
        found["second"] = str(error)
with RunFolder(run.path).locked(resume=True):
    found["later"] = "came in"
Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
'''


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    place = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "ignore", "-c", SCRIPT]
    command += [str(place / "run"), str(place / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place)
    assert done.returncode == 0, done.stderr
    return json.loads((place / "found.json").read_text(encoding="utf-8"))


def test_every_module_imports_without_the_modules_of_unix(found):
    assert found["failed"] == []
    assert found["modules"] > 100
    assert found["help"] == 0


def test_the_doctor_calls_nothing_broken(found):
    assert {row["name"] for row in found["doctor"] if row["state"] == "broken"} == set()
    assert "core" in next(row["found"] for row in found["doctor"] if row["name"] == "threads")


def test_what_the_system_does_not_tell(found):
    assert found["peak_memory"] is None
    assert found["usable_cores"] >= 1


def test_a_folder_is_held_by_one_process_there_too(found):
    assert "is in use by another running process" in found["second"]
    assert found["later"] == "came in"
