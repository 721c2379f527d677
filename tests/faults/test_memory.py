"""A machine whose memory is really full: the system refuses a process what goes over a limit."""

import re
import shlex

import pytest
from forked import run

from dearkd.run_folder.folder import RunFolder

ROOM = 400
"""Megabytes that a run may take once it has its libraries: less than a pass over a whole batch."""
LIMIT = f"""
import re
import resource
from pathlib import Path

status = Path("/proc/self/status").read_text()
taken = int(re.search(r"VmSize:\\s+(\\d+)", status)[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (taken + ({ROOM} << 20), resource.RLIM_INFINITY))
"""
TRAIN = shlex.split(
    "train --method ce --student dearkd_mini_patch4_32 --img-size 16 --fraction 0.36 --stage1 2 "
    "--stage2 0 --set data.batch_size=512 --set precision=fp32 --set trackers=[]"
)


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_made_in_passes_that_do(tmp_path, record_fault):
    """And the run is, to the bit, the one of which their size was typed."""
    limit = tmp_path / "limit.py"
    limit.write_text(LIMIT)
    line = [*TRAIN, "--import", limit, "--set", "data.micro_batch=auto", "--out", tmp_path / "run"]
    assert run(line, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    told = (tmp_path / "log").read_text()
    (*_, micro) = re.findall(r"out of memory: from here on data.micro_batch is (\d+)", told)
    line = [*TRAIN, "--set", f"data.micro_batch={micro}", "--out", tmp_path / "typed"]
    assert run(line, tmp_path / "log") == 0
    ours, typed = (RunFolder(tmp_path / name).model_file for name in ("run", "typed"))
    assert ours.read_bytes() == typed.read_bytes()
    record_fault("memory full, micro_batch=auto", times=1, survived=1)


@pytest.mark.slow
def test_without_it_one_line_tells_of_it(tmp_path, record_fault):
    limit = tmp_path / "limit.py"
    limit.write_text(LIMIT)
    assert run([*TRAIN, "--import", limit, "--out", tmp_path / "run"], tmp_path / "log") == 2
    told = (tmp_path / "log").read_text().strip().splitlines()
    assert "error: out of memory; add --set data.micro_batch=auto" in told[-1]
    assert "Traceback" not in "\n".join(told)
    record_fault("memory full", times=1, survived=1)
