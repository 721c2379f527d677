"""Threads are settled before torch loads: as many as a container allows, and they sleep."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dearkd.run_folder.threads import BRIEFLY, settle_threads
from synth import cores
from synth.cores import cpu_quota, usable_cores


def groups(place, group, **limits):
    """A tree of control groups with the given ``cpu.max`` files, and the file that names ours."""
    for name, limit in limits.items():
        folder = place / "root" / ("" if name == "top" else name.replace("_", "/"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(f"{limit}\n")
    (place / "cgroup").write_text(f"4:memory:/elsewhere\n0::/{group}\n")
    return place / "root", place / "cgroup"


@pytest.mark.parametrize(
    ("group", "limits", "quota"),
    [
        ("", {"top": "150000 100000"}, 1.5),  # in a container: its own group is the root
        ("", {"top": "max 100000"}, None),
        ("", {}, None),
        ("a/b", {"a": "200000 100000", "a_b": "max 100000"}, 2.0),
        ("a/b", {"a": "200000 100000", "a_b": "50000 100000"}, 0.5),
    ],
)
def test_the_least_limit_of_the_groups_around_counts(group, limits, quota, tmp_path):
    assert cpu_quota(*groups(tmp_path, group, **limits)) == quota


def test_a_machine_without_control_groups_has_no_quota(tmp_path):
    assert cpu_quota(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("quota", "expected"), [(0.5, 1), (1.5, 2), (3.0, 3), (64.0, 4), (None, 4)]
)
def test_a_quota_lowers_the_cores(quota, expected, monkeypatch):
    monkeypatch.setattr(cores, "cores_by_affinity", lambda: 4)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert usable_cores() == expected


@pytest.mark.parametrize(
    ("given", "quota", "settled"),
    [
        ({}, None, BRIEFLY),  # torch counts the cores itself
        ({}, 2.0, {**BRIEFLY, "OMP_NUM_THREADS": "2"}),
        ({"LOCAL_WORLD_SIZE": "2"}, None, {**BRIEFLY, "OMP_NUM_THREADS": "2"}),
        ({"LOCAL_WORLD_SIZE": "8"}, 2.0, {**BRIEFLY, "OMP_NUM_THREADS": "1"}),
        ({"OMP_NUM_THREADS": "7"}, 2.0, BRIEFLY),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 2.0, {"OMP_NUM_THREADS": "2"}),
        ({"GOMP_SPINCOUNT": "10"}, None, {}),
    ],
)
def test_what_nobody_set_is_set(given, quota, settled, monkeypatch):
    monkeypatch.setattr(cores, "cores_by_affinity", lambda: 4)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    environment = dict(given)
    settle_threads(environment)
    assert environment == given | settled


def test_torch_loads_after_the_threads_are_settled():
    """The command's own process has them, and so have those that it starts."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP", "KMP"))}
    show = "import json, os, torch; print(json.dumps([torch.get_num_threads(), dict(os.environ)]))"
    code = "\n".join(
        [
            "import subprocess, sys",
            "from dearkd.cli.main import settle_threads",
            "assert 'torch' not in sys.modules",
            "settle_threads()",
            f"subprocess.run([sys.executable, '-c', {show!r}], check=True)",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    count, inherited = json.loads(done.stdout)
    assert 1 <= count <= usable_cores()
    assert BRIEFLY.items() <= inherited.items()
