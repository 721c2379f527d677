"""Labels that are kept, under a compiled objective (run by ``tests/test_unchecked.py``)."""

import pytest
import torch
from torch import nn

from dearkd.labels.answers import Answers
from dearkd.labels.folder import LabelFolder
from dearkd.labels.memory import LabelMemory
from dearkd.models.teacher import Teacher
from dearkd.objectives import Distillation

HALF = (0.5, 0.5, 0.5)


class Net(nn.Module):
    num_classes = 10

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))

    def forward(self, images):
        return self.body(images)


# torch looks at it itself, while it compiles
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_the_memory_is_a_leaf_of_the_compiled_objective(tmp_path):
    torch.manual_seed(0)
    teacher = Teacher(Net(), student_mean=HALF, student_std=HALF, mean=HALF, std=HALF)
    objective = Distillation(Net(), teacher, token="class").train()
    images, targets, views = torch.randn(4, 3, 8, 8), torch.arange(4), torch.arange(4)
    losses = [objective(images, targets)["loss"].item()]
    objective.forward = torch.compile(objective.forward, backend="eager")
    counts = []
    for _ in range(2):
        folder = LabelFolder(tmp_path, Answers("labels", 10), 8, "key")
        memory = objective.teacher.memory = LabelMemory(folder)
        for first in (0, 4):
            losses.append(objective(images, targets, views + first)["loss"].item())
        memory.save()
        counts.append((memory.read, memory.computed))
    assert counts == [(0, 8), (8, 0)]
    assert max(losses) - min(losses) < 1e-5
