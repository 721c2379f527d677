"""Files: atomic, never unpickled, and damage is said in one line."""

import errno
import pickle

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from dearkd.run_folder.files import (
    load_checkpoint,
    load_weights,
    read_metadata,
    save_checkpoint,
    save_model,
    write_atomically,
)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    file = tmp_path / "state.pt"
    save_checkpoint(file, {"epoch": 1})

    def fail(target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, fail)
    assert load_checkpoint(file) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_full_disk_is_an_oserror(tmp_path):
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    import dearkd.run_folder.files as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_atomically", lambda path, write: write(full))
        with pytest.raises(OSError, match=r"could not write .*state\.pt|No space left"):
            save_checkpoint(tmp_path / "state.pt", {"x": torch.zeros(100_000)})


def test_a_pickle_with_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'boom')!r}, 'w')",))

    file = tmp_path / "bomb.pt"
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        load_checkpoint(file)
    assert not (tmp_path / "boom").exists()


def test_a_truncated_checkpoint_is_named(tmp_path):
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"x": torch.zeros(1000)})
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"last\.pt is damaged"):
        load_checkpoint(file)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pt")


def test_model_round_trip_with_metadata_and_equal_bytes(tmp_path):
    model = nn.Linear(3, 2)
    metadata = {"arch": "x", "class_names": ["a", "b"], "mean": [0.5]}
    for name in ("one", "two"):
        save_model(tmp_path / name, model, metadata)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_metadata(tmp_path / "one") == metadata
    assert torch.equal(load_weights(tmp_path / "one")["weight"], model.weight)


def test_a_file_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"no tensors here")
    for read in (read_metadata, load_weights):
        with pytest.raises(ValueError, match=r"x\.safetensors is not a safetensors file"):
            read(file)


def test_a_full_disk_while_writing_a_model_is_an_oserror(tmp_path, monkeypatch):
    import dearkd.run_folder.files as module

    def full(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match=r"could not write .*m\.safetensors: .*No space left"):
        save_model(tmp_path / "m.safetensors", nn.Linear(2, 2), {})
