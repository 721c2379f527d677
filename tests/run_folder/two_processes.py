"""Commands in two processes that torchrun starts once: to load torch takes longer than most.

As a script it is what each of the two runs: it carries out the commands that appear in a folder.
"""

import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SECONDS = 300
CALL = "call"


class TwoProcesses:
    """Two processes of one command each time.

    Args:
        folder: Where they find their commands and leave what these print.
    """

    def __init__(self, folder):
        self.folder = folder
        self.given = -1
        self.log = folder / "log.txt"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        line = [sys.executable, *TORCHRUN, __file__, str(folder), str(os.getpid())]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(line, env=environment, stdout=log, stderr=log)

    def __call__(self, line):
        """Runs a command in this folder; what its main process printed."""
        self.given += 1
        write(self.folder / f"{self.given}.json", [str(Path.cwd()), *line.split()])
        told = [self._told(rank) for rank in (0, 1)]
        assert [code for code, _ in told] == [0, 0], told
        assert not told[1][1], told  # two worlds would both print
        return told[0][1]

    def failed(self, function):
        """Calls a function of this file in both; the error of each."""
        self.given += 1
        write(self.folder / f"{self.given}.json", [str(Path.cwd()), CALL, function])
        return [printed for _, printed in map(self._told, (0, 1))]

    def end(self):
        """Ends both, which have to be well until then."""
        write(self.folder / f"{self.given + 1}.json", [])
        try:
            code = self.process.wait(SECONDS)
        finally:
            self.process.terminate()
        assert code == 0, self.log.read_text()

    def _told(self, rank):
        file, ends = self.folder / f"{self.given}-{rank}.json", time.monotonic() + SECONDS
        while not file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, f"no answer to command {self.given}"
            time.sleep(0.05)
        return json.loads(file.read_text())


def write(file, content):
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.rename(file)


def idle(group=None):
    """Stays in the group of processes: torchrun's store makes one, and no second."""


def fail_on_the_main_process():
    from dearkd.run_folder.processes import from_main, process_state

    def fail():
        error = RuntimeError("no memory left")
        error.device = lambda: None  # which can't be sent
        raise error

    from_main(process_state(), fail)


def spoil_a_statistic_of_one_process():
    from torch import nn, optim

    from dearkd.run_folder.processes import process_state
    from dearkd.training.finite import check_weights
    from dearkd.training.stages import Position

    network = nn.BatchNorm1d(2)
    if not process_state().is_main_process:
        network.running_var[0] = float("nan")
    check_weights(network, optim.SGD(network.parameters()), Position(), 0.1)


def error_of(function):
    """Exit code and text of an error, as a command would have them."""
    try:
        globals()[function]()
    except Exception as error:
        return [2, f"{type(error).__name__}: {error}"]
    return [0, ""]


def serve(folder, asking):
    import torch.distributed
    from accelerate.state import AcceleratorState
    from commands import invoke

    leave, torch.distributed.destroy_process_group = torch.distributed.destroy_process_group, idle
    number = 0
    while True:
        file = folder / f"{number}.json"
        while not file.exists():
            if not Path("/proc", asking).exists():
                sys.exit("nobody asks any more")
            time.sleep(0.05)
        place, *words = json.loads(file.read_text()) or [None]
        if place is None:
            return leave()
        os.chdir(place)
        answer = error_of(words[1]) if words[0] == CALL else printed_by(invoke(*words))
        AcceleratorState._reset_state(reset_partial_state=True)
        write(folder / f"{number}-{os.environ['RANK']}.json", answer)
        number += 1


def printed_by(result):
    """Exit code of a command and what it printed."""
    if result.exit_code:
        trace = "".join(traceback.format_exception(result.exception))
        return [result.exit_code, result.output + trace]
    return [0, result.stdout]


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
