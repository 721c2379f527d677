"""Commands in two processes that are one world: each carries out what appears in a folder."""

import json
import os
import sys
import time
import traceback
from pathlib import Path

import forked

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
        self.logs = [folder / f"log-{rank}.txt" for rank in (0, 1)]
        asking = os.getpid()
        self.processes = [
            forked.begin(log, serve, folder, asking, rank) for rank, log in enumerate(self.logs)
        ]

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
            codes = [forked.ended(process) for process in self.processes]
        finally:
            for process in self.processes:
                process.terminate()
        assert codes == [0, 0], self._said()

    def _told(self, rank):
        file, ends = self.folder / f"{self.given}-{rank}.json", time.monotonic() + SECONDS
        while not file.exists():
            assert all(process.is_alive() for process in self.processes), self._said()
            assert time.monotonic() < ends, f"no answer to command {self.given}"
            time.sleep(0.05)
        return json.loads(file.read_text())

    def _said(self):
        return "\n".join(log.read_text() for log in self.logs)


def write(file, content):
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.rename(file)


def idle(group=None):
    """Stays in the group of processes, which are one world for all commands."""


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


def serve(folder, asking, rank):
    import torch.distributed
    from accelerate.state import AcceleratorState
    from commands import invoke

    join(folder, rank)
    leave, torch.distributed.destroy_process_group = torch.distributed.destroy_process_group, idle
    number = 0
    while True:
        file = folder / f"{number}.json"
        while not file.exists():
            if not Path("/proc", str(asking)).exists():
                sys.exit("nobody asks any more")
            time.sleep(0.05)
        place, *words = json.loads(file.read_text()) or [None]
        if place is None:
            return leave()
        os.chdir(place)
        answer = error_of(words[1]) if words[0] == CALL else printed_by(invoke(*words))
        AcceleratorState._reset_state(reset_partial_state=True)
        write(folder / f"{number}-{rank}.json", answer)
        number += 1


def join(folder, rank):
    """Makes this process one of the two, by what torchrun sets but for the store, which is a file.

    A port that is free now may be taken by another test a moment later.
    """
    import torch.distributed

    for name in ("", "LOCAL_"):
        os.environ |= {f"{name}RANK": str(rank), f"{name}WORLD_SIZE": "2"}
    os.environ["ACCELERATE_USE_CPU"] = "true"
    store = (folder / "store").as_uri()
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=2)


def printed_by(result):
    """Exit code of a command and what it printed."""
    if result.exit_code:
        trace = "".join(traceback.format_exception(result.exception))
        return [result.exit_code, result.output + trace]
    return [0, result.stdout]
