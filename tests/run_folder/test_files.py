"""Files: atomic, never unpickled, and damage is said in one line."""

import errno
import os
import pickle
import signal
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from dearkd.errors import UserError
from dearkd.run_folder.files import (
    load_checkpoint,
    load_weights,
    raw_student,
    read_metadata,
    remove_leftovers,
    save_checkpoint,
    save_model,
    save_tensors,
    write_atomically,
)
from dearkd.run_folder.output import make_room, write_text


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    file = tmp_path / "state.pt"
    state = {"objective": {}, "optimizer": {}, "ema": {}, "position": {"epoch": 1}}
    save_checkpoint(file, state)

    def fail(target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, fail)
    assert load_checkpoint(file) == state
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_what_a_kill_left_goes_and_hidden_files_of_the_users_stay(tmp_path):
    users = {".env.tmpl", ".notes.tmp", ".x.tmp1~", "x.tmp1", ".tmp1"}
    for name in (*users, ".model.safetensors.tmp123"):
        (tmp_path / name).touch()
    (tmp_path / ".timm.tmp123").mkdir()  # of an export
    (tmp_path / ".timm.tmp123" / "config.json").touch()
    remove_leftovers(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == users


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and limits of a process")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_in_the_middle_of_a_write_leaves_nothing_that_stays(tmp_path):
    import resource

    tensors = {"x": torch.zeros(1 << 18)}
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills it at the limit
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        save_tensors(tmp_path / "model.safetensors", tensors, {})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGXFSZ
    left = [entry for entry in tmp_path.rglob("*") if entry.is_file()]
    assert left  # it was killed while it wrote
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_oserror(tmp_path):
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    import dearkd.run_folder.files as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_atomically", lambda path, write, keep: write(full))
        with pytest.raises(OSError, match=r"could not write .*state\.pt|No space left"):
            save_checkpoint(tmp_path / "state.pt", {"x": torch.zeros(100_000)})


@pytest.mark.parametrize("mask", [0o077, 0o002, 0o022])
def test_files_have_the_permissions_that_the_umask_leaves(mask, tmp_path):
    files = [tmp_path / name for name in ("model.safetensors", "last.pt", "text")]
    (tmp_path / "text").write_text("old")
    before = os.umask(mask)
    try:
        save_model(files[0], nn.Linear(2, 2), {})
        save_checkpoint(files[1], {"epoch": 1})
        write_text(files[2], "new")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o666 & ~mask] * 3


def test_files_of_two_processes_in_one_folder_do_not_meet(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(make_room, [tmp_path / "page.html"] * 400))
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_with_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'boom')!r}, 'w')",))

    file = tmp_path / "bomb.pt"
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="not a checkpoint that dearkd wrote"):
        load_checkpoint(file)
    torch.save({"x": Bomb()}, file)
    with pytest.raises(ValueError, match="more than tensors and plain values") as caught:
        load_checkpoint(file)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "boom").exists()


def flipped(content):
    """Other bytes in the middle of the tensor; the archive keeps a checksum."""
    middle = len(content) // 2
    return (
        content[:middle] + bytes(255 - byte for byte in content[middle:][:4]) + content[middle:][4:]
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:500], "is cut short"),
        (lambda content: content[:-1], "is cut short"),
        (lambda content: b"", "is cut short"),
        (lambda content: b"%PDF-1.7" + content[:90], "is not a checkpoint that dearkd wrote"),
        (flipped, "is damaged"),
        (lambda content: content.replace(b"data.pkl", b"beta.pkl"), "is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_what_is_left_to_do(damage, words, tmp_path):
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"x": torch.zeros(10_000)})
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"last\.pt {words}.*another --out$") as caught:
        load_checkpoint(file)
    assert "weights_only" not in str(caught.value)
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(ValueError, match=r"best\.safetensors: --which best\)$"):
        load_checkpoint(file)


def test_a_checkpoint_of_another_origin_or_none_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "last.pt")
    with pytest.raises(ValueError, match="is not a checkpoint that dearkd wrote"):
        load_checkpoint(tmp_path / "last.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pt")


def test_raw_weights_are_read_from_checkpoints_of_runs_alone(tmp_path):
    save_checkpoint(tmp_path / "last.pt", {"epoch": 3})
    with pytest.raises(UserError, match=r"last\.pt is not a checkpoint that dearkd wrote; copy"):
        raw_student(tmp_path / "last.pt")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_metadata_get_one_line(tmp_path, text):
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(1)}, file, metadata={"dearkd": text})
    with pytest.raises(UserError, match=r"model\.safetensors has damaged metadata .*again$"):
        read_metadata(file)


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
