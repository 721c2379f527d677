"""The folder of a label cache: many writers, kills, damage, other labels."""

import itertools
import json
import os
import signal
import time

import numpy as np
import pytest
import torch

from dearkd.errors import UserError, WriteError
from dearkd.labels.answers import Answers
from dearkd.labels.folder import LabelFolder, create_manifest, read_manifest
from dearkd.labels.memory import LabelMemory
from dearkd.run_folder.files import save_tensors

LABELS = Answers("labels", 10)
CPU = torch.device("cpu")


def one_hot(labels):
    return torch.nn.functional.one_hot(torch.as_tensor(labels), 10).float()


def folder_of(path, key="key", views=12):
    return LabelFolder(path, LABELS, views, key)


def record(memory, views, labels):
    """What the teacher does with views that are not known."""
    views = torch.tensor(views)
    assert memory.recall(views, CPU) is None
    return memory.record(views, one_hot(labels))


def test_what_one_memory_records_another_recalls(tmp_path):
    memory = LabelMemory(folder_of(tmp_path))
    given = record(memory, [24, 25, 30, 31], [3, 1, 4, 1])
    assert torch.equal(given, one_hot([3, 1, 4, 1]))
    memory.save()
    later = LabelMemory(folder_of(tmp_path))
    assert torch.equal(later.recall(torch.tensor([31, 24]), CPU), one_hot([1, 3]))
    assert later.recall(torch.tensor([24, 26]), CPU) is None  # 26 is not known
    assert later.recall(torch.tensor([0, 1]), CPU) is None
    assert (later.read, memory.computed) == (2, 4)


def test_logits_come_back_the_first_time_as_every_time(tmp_path):
    answers = Answers("logits", 5)
    folder = LabelFolder(tmp_path, answers, 4, "key")
    logits = torch.randn(2, 5)
    memory = LabelMemory(folder)
    memory.record(torch.tensor([-1, -1]), logits)  # before any epoch is at hand
    assert memory.recall(torch.tensor([0, 1]), CPU) is None
    given = memory.record(torch.tensor([0, 1]), logits)
    memory.save()
    assert torch.equal(LabelMemory(folder).recall(torch.tensor([0, 1]), CPU), given)
    torch.testing.assert_close(given.log_softmax(1), logits.log_softmax(1), rtol=1e-3, atol=2e-3)


def test_views_without_a_number_are_not_kept(tmp_path):
    memory = LabelMemory(folder_of(tmp_path))
    for views in ([-1, -1], [-1, 3]):
        record(memory, views, [7, 8])
    memory.save()
    assert folder_of(tmp_path).known(0).tolist() == [p == 3 for p in range(12)]
    assert LabelMemory(folder_of(tmp_path)).recall(torch.tensor([3, -1]), CPU) is None


def test_nothing_is_lost_where_an_epoch_ends_or_is_gone_on_with(tmp_path):
    memory = LabelMemory(folder_of(tmp_path))
    record(memory, [0, 1], [0, 1])
    memory.save()
    record(memory, [2, 3], [2, 3])
    record(memory, [12, 13], [4, 5])  # the next epoch, though nobody saved
    resumed = LabelMemory(folder_of(tmp_path))
    record(resumed, [4, 5], [6, 7])
    resumed.save()
    known, values = folder_of(tmp_path).read(0)
    assert known.tolist() == [True] * 6 + [False] * 6
    assert values[:6].tolist() == [0, 1, 2, 3, 6, 7]
    assert len(list(tmp_path.glob("epoch-00000-*"))) == 2
    memory.save()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("epoch-*")}
    memory.save()  # nothing new, nothing written
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.glob("epoch-*")}
    assert folder_of(tmp_path).epochs() == [0, 1]


def test_a_step_that_is_begun_anew_counts_its_answers_once(tmp_path):
    """In smaller passes, as where memory was out."""
    memory = LabelMemory(folder_of(tmp_path))
    for views in ([0, 1, 2, 3], [0, 1], [2, 3]):
        record(memory, views, views)
    memory.save()
    assert (memory.read, memory.computed) == (0, 4)
    later = LabelMemory(folder_of(tmp_path))
    for views in ([0, 1, 2, 3], [0, 1], [2, 3]):
        assert later.recall(torch.tensor(views), CPU) is not None
    record(later, [4, 5], [4, 5])
    record(later, [12, 13], [0, 1])  # as many of the next epoch
    assert (later.read, later.computed) == (4, 4)


def test_answers_may_wait_on_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr("dearkd.labels.memory.MOST_PENDING", 5)
    memory = LabelMemory(folder_of(tmp_path))
    for first in range(0, 12, 2):
        record(memory, [first, first + 1], [first % 10, 1])
    memory.save()
    assert folder_of(tmp_path).known(0).all()


def test_a_label_takes_a_byte_and_a_bit(tmp_path):
    folder = folder_of(tmp_path, views=80_000)
    folder.write(0, np.ones(80_000, dtype=bool), np.zeros(80_000, dtype=np.uint8))
    (file,) = tmp_path.glob("epoch-*")
    assert 90_000 < file.stat().st_size < 90_500


def write_forever(folder, pipe):
    """Writes 100 views more each time, and says how many there are."""
    for count in itertools.count(100, 100):
        own = np.arange(folder.views) < count
        folder.write(0, own, np.full(count, 7, dtype=np.uint8))
        os.write(pipe, b"%d " % count)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_in_the_middle_of_a_write_loses_no_more_than_that_write(tmp_path):
    folder = folder_of(tmp_path, views=200_000)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        write_forever(folder, writing)
    os.close(writing)
    said = b""
    while said.count(b" ") < 20:
        said += os.read(reading, 1)
    time.sleep(0.003)  # somewhere in the next one
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said += os.read(reading, 1 << 16)
    os.close(reading)
    known, values = folder.read(0)
    assert known.sum() >= int(said.split()[-1])
    assert (values[known] == 7).all()
    users = {".env", ".gitkeep", ".notes.tmp", ".labels.json.swp"}
    for name in (*users, f".labels.json.{'0a' * 16}", ".epoch-00000-ab.safetensors.tmp123"):
        (tmp_path / name).touch()
    for file in tmp_path.glob(".*"):
        os.utime(file, (0, 0))
    folder.remove_leftovers()
    assert {file.name for file in tmp_path.glob(".*")} == users


def test_a_file_that_is_no_longer_whole_is_named(tmp_path):
    folder = folder_of(tmp_path)
    folder.write(0, np.arange(12) < 4, np.arange(4, dtype=np.uint8))
    (file,) = tmp_path.glob("epoch-*")
    content = file.read_bytes()
    for damage in (content[:-2], content[:20], b""):
        file.write_bytes(damage)
        with pytest.raises(UserError, match=f"{file.name}.*; delete it"):
            folder.read(0)


def test_a_file_without_answers_is_named_and_one_of_another_name_is_none_of_ours(tmp_path):
    folder = folder_of(tmp_path)
    (tmp_path / "epoch-best-model.safetensors").write_text("the user's")
    assert folder.epochs() == []
    bits = {"views": torch.from_numpy(np.packbits(np.ones(12, dtype=bool)))}
    save_tensors(tmp_path / "epoch-00003-ab.safetensors", bits, {"key": "key"})
    assert folder.epochs() == [3]
    with pytest.raises(UserError, match=r"epoch-00003-ab.safetensors is damaged; delete it"):
        folder.read(3)


def test_a_file_of_other_labels_is_refused(tmp_path):
    folder_of(tmp_path, key="other").write(0, np.ones(12, dtype=bool), np.zeros(12, dtype=np.uint8))
    with pytest.raises(UserError, match=r"not of the labels in labels.json.*delete it"):
        folder_of(tmp_path).read(0)


def test_of_two_manifests_the_first_counts(tmp_path):
    path = tmp_path / "deep" / "labels"
    assert read_manifest(path) is None
    first = {"key": "a", "of": {"seed": 1}}
    assert create_manifest(path, first) == first
    assert create_manifest(path, {"key": "b", "of": {"seed": 2}}) == first
    assert read_manifest(path) == first
    assert [file.name for file in path.iterdir()] == ["labels.json"]


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    assert create_manifest(tmp_path, {"key": "a"}) == {"key": "a"}


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match=r"holds photo.jpg and no labels.json; choose a new folder"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match="is a file; choose a folder"):
        read_manifest(tmp_path / "photo.jpg")
    with pytest.raises(WriteError, match=r"cannot write to .*choose another folder"):
        create_manifest(tmp_path / "photo.jpg" / "labels", {"key": "a"})
    for text in ("{", json.dumps([1])):
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(UserError, match=r"labels.json is damaged; delete"):
            read_manifest(tmp_path)
