"""Commands that can be killed, in processes forked from one that has the libraries loaded.

It is the command itself, signals and exit codes with it; only the seconds are left out in which
Python loads torch. None of these processes has done what the test's own has, or checks shapes.
"""

import gc
import multiprocessing
import os
import sys
import time
from pathlib import Path

import psutil

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["dearkd.cli.app", "dearkd.training.train", "dearkd.synthesis.synthesize"]
)
PATIENCE = 300.0
"""Seconds after which a command that has not ended fails the test."""


def begin(log, function, *arguments):
    """A function of a module at work; what it says goes to ``log``."""
    process = _CONTEXT.Process(target=_run, args=(str(log), function, *arguments))
    process.start()
    return process


def start(words, log):
    """The command, or torchrun, at work; what it says goes to ``log``."""
    return begin(log, _command, [str(word) for word in words])


def ended(process):
    """Its exit code."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "the command does not end"
    return process.exitcode


def run(words, log):
    """The exit code of the command."""
    return ended(start(words, log))


def script(code, words, log):
    """The exit code of a program, as ``python -c`` runs it."""
    return ended(begin(log, _script, code, [str(word) for word in words]))


def kill(process):
    """SIGKILL to the command and to all that it has started; whether it was still at work."""
    try:
        family = psutil.Process(process.pid)
        doomed = [*family.children(recursive=True), family]
    except psutil.NoSuchProcess:
        doomed = []
    for each in doomed:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(doomed[:-1], timeout=30)
    return ended(process) == -9


def seconds_until_it_writes(process, folder):
    """From now until something in the folder but its log is new, or the command has ended."""
    began, clock = time.time(), time.monotonic()
    while process.exitcode is None:
        for file in Path(folder).rglob("*"):
            try:
                if file.name != "log" and file.is_file() and file.stat().st_mtime > began:
                    return time.monotonic() - clock
            except OSError:  # a temporary file, gone by now
                continue
        process.join(0.02)
    return time.monotonic() - clock


def _run(log, function, *arguments):
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(stream, number)
    gc.freeze()  # what was loaded is no garbage: a run looks for some several times
    function(*arguments)


def _script(code, words):
    sys.argv = ["-c", *words]
    exec(code, {"__name__": "__main__"})


def _command(words):
    if words[0] == "torchrun":
        from torch.distributed.run import main as torchrun

        os.environ["ACCELERATE_USE_CPU"] = "true"
        torchrun(["--standalone", *words[1:]])
        return
    sys.argv = ["dearkd", *words]
    from dearkd.cli.main import main

    main()
