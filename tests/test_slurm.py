"""The templates for Slurm, with stand-ins for its commands: which exit code puts a job back."""

import os
import subprocess
from pathlib import Path

import pytest

TEMPLATES = sorted((Path(__file__).parents[1] / "scripts" / "slurm").glob("*.sbatch"))
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
}


@pytest.mark.parametrize("code", [0, 2, 75])
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.stem)
def test_a_job_is_put_back_on_75_alone(template, code, tmp_path):
    programs = {
        "srun": '"$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol',
        "dearkd": f'echo "$RANK/$WORLD_SIZE $@" > {tmp_path}/said; exit {code}',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {**os.environ, **SLURM, "PATH": path, "RANK": "-", "WORLD_SIZE": "-"}
    line = ["bash", template, "run.yaml", "out dir", "--seed", "3"]
    assert subprocess.run(line, env=environment, check=False).returncode == code
    ranks = "1/2 train" if template.stem == "train" else "-/- synthesize"
    said = (tmp_path / "said").read_text()
    assert said == f"{ranks} run.yaml --out out dir --go-on --seed 3\n"
    asked = (tmp_path / "scontrol").read_text() if (tmp_path / "scontrol").exists() else ""
    assert ("requeue 7" in asked) == (code == 75)
