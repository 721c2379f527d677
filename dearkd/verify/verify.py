"""What `dearkd verify` does: checks that a run or a synthetic set is what its files say."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dearkd.data.synthetic_set import read_set
from dearkd.errors import UserError, missing_file
from dearkd.rounds.folder import ROUNDS_FILE
from dearkd.run_folder.folder import RunFolder
from dearkd.said import command
from dearkd.verify.checks import Check
from dearkd.verify.run_checks import run_checks
from dearkd.verify.set_checks import set_checks

__all__ = ["verify"]

COLOURS = {"holds": "green", "fails": "red", "open": "yellow"}


def verify(
    target: Path,
    *,
    console: Console,
    evaluates: bool = True,
    as_json: bool = False,
    trust: bool = False,
) -> bool:
    """Verifies a finished run or set, prints each check, and returns whether none failed.

    Raises:
        UserError: If it is neither, or is not finished, or ``trust`` would have no effect.
        MissingFileError: If it does not exist.
    """
    if not target.exists():
        raise missing_file(str(target), target, "name a run folder or a synthetic set")
    if trust and not evaluates:
        raise UserError(
            "--trust has no effect with --no-evaluation, which opens no network; leave it out"
        )
    checks = list(_checks(target, evaluates, trust))
    if as_json:
        console.print_json(json.dumps({"target": str(target), "checks": list(map(asdict, checks))}))
    else:
        _print(target, checks, console)
    return all(check.verdict != "fails" for check in checks)


def _checks(target: Path, evaluates: bool, trust: bool) -> Iterator[Check]:
    folder, item = RunFolder(target), read_set(target)
    if folder.config_file.is_file() and folder.summary_file.is_file():
        return run_checks(folder, evaluates, trust)
    if (target / ROUNDS_FILE).is_file():
        raise _unfinished(target, "distill")
    if folder.config_file.is_file():
        raise _unfinished(target, "train")
    if item is None:
        raise UserError(f"{target} is neither a run folder nor a synthetic set; name one")
    if not item.finished:
        raise _unfinished(target, "synthesize")
    return set_checks(item, evaluates, trust)


def _unfinished(target: Path, verb: str) -> UserError:
    again = command("dearkd", verb, "--resume", "--out", target)
    return UserError(f"{target} is not finished; go on with {again}")


def _print(target: Path, checks: list[Check], console: Console) -> None:
    table = Table("", "", "what was found", title=str(target))
    for check in checks:
        table.add_row(check.name, Text(check.verdict, COLOURS[check.verdict]), check.told)
    failed = sum(check.verdict == "fails" for check in checks)
    console.print(table)
    console.print(f"{failed} of {len(checks)} checks failed" if failed else "no check failed")
