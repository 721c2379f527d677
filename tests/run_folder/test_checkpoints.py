"""The checkpoint before the last one takes its place, and is never lost to a damaged one."""

import random

import pytest
import torch

from dearkd.errors import UserError
from dearkd.run_folder import files
from dearkd.run_folder.checkpoints import Checkpoints
from dearkd.run_folder.files import load_checkpoint, save_checkpoint

RUN = {"student": "toy", "seed": 0}


def state(epoch):
    return {"objective": {}, "optimizer": {}, "ema": {}, "position": {"epoch": epoch}}


def of_two(folder):
    checkpoints = Checkpoints(folder)
    for epoch in (1, 2):
        checkpoints.save(state(epoch), RUN)
    return checkpoints


def loaded(checkpoints, run=RUN):
    """Its epoch, and what was said."""
    said = []
    return checkpoints.load(run, said.append)["position"]["epoch"], said


def damage(file):
    file.write_bytes(file.read_bytes()[:-40])


def test_the_last_one_is_taken_without_a_word(tmp_path):
    assert loaded(of_two(tmp_path)) == (2, [])
    assert Checkpoints(tmp_path / "none").load(RUN, print) == {}


def test_the_previous_one_takes_the_place_of_a_damaged_one(tmp_path):
    checkpoints = of_two(tmp_path)
    damage(checkpoints.last)
    epoch, (words,) = loaded(checkpoints)
    assert epoch == 1
    assert words == (
        f"warning: {checkpoints.last} is cut short: it was not copied or written to its end; "
        f"going on from {checkpoints.previous}, the one before it"
    )


def test_a_damaged_one_is_not_kept_in_the_place_of_a_good_one(tmp_path):
    checkpoints = of_two(tmp_path)
    damage(checkpoints.last)
    loaded(checkpoints)
    checkpoints.save(state(3), RUN)
    assert load_checkpoint(checkpoints.previous)["position"]["epoch"] == 1
    checkpoints.save(state(4), RUN)
    assert load_checkpoint(checkpoints.previous)["position"]["epoch"] == 3


def test_the_flaw_of_the_last_one_is_told_where_both_are_damaged(tmp_path):
    checkpoints = of_two(tmp_path)
    damage(checkpoints.last)
    checkpoints.previous.write_bytes(b"")
    with pytest.raises(UserError, match=r"last\.pt is cut short"):
        loaded(checkpoints)


def test_one_of_another_run_is_not_taken(tmp_path):
    checkpoints = of_two(tmp_path)
    Checkpoints(tmp_path / "other").last.parent.mkdir()
    Checkpoints(tmp_path / "other").save(state(9), {**RUN, "student": "other"})
    checkpoints.last.write_bytes((tmp_path / "other" / "last.pt").read_bytes())
    epoch, (words,) = loaded(checkpoints)
    assert epoch == 1
    assert "is of another run: its student is other, and this one's is toy; going on" in words
    checkpoints.previous.unlink()
    with pytest.raises(UserError, match=r"its student is other, .*; copy it anew or start another"):
        loaded(checkpoints)


def test_one_of_an_older_version_says_nothing_of_its_run(tmp_path):
    save_checkpoint(tmp_path / "last.pt", state(5))
    assert loaded(Checkpoints(tmp_path)) == (5, [])


def test_without_links_a_kill_between_the_two_names_loses_none(tmp_path, monkeypatch):
    def unlinked(self, target):
        raise OSError("this file system has no links")

    monkeypatch.setattr("pathlib.Path.hardlink_to", unlinked)
    checkpoints = of_two(tmp_path)
    assert load_checkpoint(checkpoints.previous)["position"]["epoch"] == 1
    files._keep(checkpoints.last, checkpoints.previous)  # and no more: killed
    epoch, said = loaded(checkpoints)
    assert epoch == 2
    assert said == [f"warning: {checkpoints.last} is missing; going on from {checkpoints.previous}"]


def test_no_flipped_bit_changes_what_is_read(tmp_path):
    """Of 300 bits anywhere in the file: refused, or where no byte of the state is."""
    checkpoints = Checkpoints(tmp_path)
    weights = torch.arange(40.0)
    checkpoints.save({**state(1), "objective": {"student.weight": weights}}, RUN)
    whole, draw = checkpoints.last.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        content[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        checkpoints.last.write_bytes(content)
        try:
            found = checkpoints.load(RUN, print)
        except UserError:
            refused += 1
            continue
        assert torch.equal(found.pop("objective")["student.weight"], weights)
        assert found["position"] == {"epoch": 1}
    assert refused > 100
