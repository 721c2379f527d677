"""The training loop: stages in, a trained student and its run folder out. It knows no method.

An objective is an ``nn.Module`` with a ``student``; its ``forward`` takes a batch and returns a
dict of terms; the loop backpropagates ``terms["loss"]`` and logs all of them. A stage is data.
Everything random is a function of (seed, position in the run), so a run that was killed and
resumed ends with bitwise the same weights as one that was not (one CPU process).
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import release_memory
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from dearkd.config import TrainConfig
from dearkd.models.heads import answering, learning_heads
from dearkd.run_folder.files import save_model
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.stop import StopRequest
from dearkd.training.agenda import Agenda
from dearkd.training.batch_norm import share_running_statistics
from dearkd.training.checkpoint import identity, restore, restore_objective, run_state
from dearkd.training.compiling import compile_step
from dearkd.training.finite import check_weights, mean_terms
from dearkd.training.optim import (
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)
from dearkd.training.passes import Passes
from dearkd.training.stages import Position, Progress, Stage

__all__ = ["Trainer"]


class Trainer:
    """Runs the stages of one configuration and keeps the run folder up to date."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        student: nn.Module,
        stages: list[Stage],
        passes: Passes,
        evaluation: Callable[[nn.Module], dict[str, float]] | None,
        accelerator: Accelerator,
        progress: Progress,
        metadata: dict[str, Any],
        classes: dict[str, Any] | None = None,
        probe: Callable[[nn.Module], dict[str, Any]] | None = None,
        save_more: Callable[[], None] | None = None,
        scales_of: Callable[[nn.Module, nn.Module], dict[str, float]] | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.student = student
        self.stages = stages
        self.passes = passes
        self.evaluation = evaluation
        self.probe = probe
        self.save_more = save_more
        self.scales_of = scales_of
        self.accelerator = accelerator
        self.progress = progress
        self.metadata = metadata
        self.classes = classes
        self.steps = passes.steps
        self.position = Position()
        decay = config.optim.ema_decay
        self.ema = ModelEmaV3(student, decay=decay) if decay else None  # constant, as DeiT has it
        self.epochs = sum(stage.epochs for stage in stages)
        self.lengths: dict[str, int] = {}
        """Epochs that each stage took which is over."""
        self.stop = StopRequest()
        self.agenda = Agenda(accelerator, self.stop, config.checkpoint_minutes)

    @property
    def averaged(self) -> nn.Module:
        """The weights that are evaluated and saved: the moving average where there is one."""
        return self.ema.module if self.ema is not None else self.student

    @property
    def answering(self) -> nn.Module:
        """These weights as they answer: by the heads that learned, with logits on one scale."""
        return answering(self.averaged, self.position.heads, self.position.head_scales)

    def fit(self, saved: dict[str, Any] | None = None) -> None:
        """Trains to the end of the last stage, from the checkpoint ``saved`` on if there is one.

        Each stage lets its objective go when it is over, with the teacher in it.

        Raises:
            Interrupted: After Ctrl-C, SIGTERM or SIGUSR1, with the state saved.
            UserError: If the loss is not finite, or the checkpoint is of another run.
        """
        saved = saved or {}
        if saved:
            average = None if self.ema is None else self.ema.module
            self.position = restore(saved, self.student, average, self.folder.last_file)
            self.passes.resume(self.position)
        if self.accelerator.is_main_process:
            self.folder.truncate_metrics(self.position.epoch)
        last = 0
        with self.stop.listening():
            for stage in self.stages:
                last += stage.epochs
                if not self._is_over(stage, last):
                    saved = {"optimizer": self._run(stage, last, saved)}
                reached = len(self.position.watched) if stage.rule else self.position.epoch
                self.lengths[stage.name] = min(last, reached) - sum(self.lengths.values())
                stage.let_go()
                if self.config.compile:
                    torch.compiler.reset()  # a stage's graphs and their memory go with it
                self.accelerator.free_memory()
                release_memory()  # once more: accelerate collects before it lets its models go

    def _is_over(self, stage: Stage, last: int) -> bool:
        """Whether a stage has had its epochs, ``last`` being its last, or was ended by its rule."""
        by_rule = stage.rule is not None and stage.rule.is_met(self.position.watched)
        return by_rule or self.position.epoch >= last

    def _run(self, stage: Stage, last: int, saved: dict[str, Any]) -> dict[str, Any]:
        """Trains one stage to its end; returns the optimizer's state there."""
        objective, optimizer = self._prepare(stage, saved)
        while not self._is_over(stage, last):
            self._epoch(stage, objective, optimizer)
        if stage.rule is not None:
            watched = self.position.watched
            self.progress.say(stage.rule.verdict(stage.name, watched, self.epochs))
        return optimizer_state(optimizer, self._unwrapped(objective))

    def _prepare(
        self, stage: Stage, saved: dict[str, Any]
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Objective and optimizer of a stage; the optimizer's moments of the student live on.

        Empties ``saved``, so that nothing is held twice while the stage runs.
        """
        torch.manual_seed(self.config.seed)
        assert stage.objective is not None
        objective = stage.objective.to(self.accelerator.device)
        if self.position.stage == stage.name and "objective" in saved:
            restore_objective(saved["objective"], objective, self.folder.last_file)
        self.position.stage = stage.name
        optimizer = build_optimizer(objective, self.config.optim, self.config.precision)
        load_optimizer_state(optimizer, objective, saved.get("optimizer", {}))
        saved.clear()
        objective.train()
        if self.config.compile:
            whole = self.passes.are_whole and len(self.stages) == 1
            device = self.accelerator.device
            if launched := compile_step(objective, optimizer, device, whole=whole):
                self.progress.say(launched)
        prepared, optimizer = self.accelerator.prepare(objective, optimizer)
        return prepared, optimizer

    def _epoch(self, stage: Stage, objective: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """One epoch, or the rest of one: steps, evaluation, log line, checkpoint."""
        position = self.position
        self.progress.begin(position, self.epochs, self.steps)
        done, waited = position.epoch_seconds, self.passes.waited
        images, lr = self._train_steps(objective, optimizer)
        position.seconds += position.epoch_seconds
        terms = self._read_terms()
        if stage.rule is not None:
            position.watched.append(stage.rule.watched(terms))
        line = {
            "epoch": position.epoch,
            "stage": position.stage,
            "lr": lr,
            **terms,
            "top1": None,
            "top5": None,
            "images_per_second": images * self.steps / max(position.epoch_seconds, 1e-9),
            "data_wait": (self.passes.waited - waited) / (position.epoch_seconds - done),
            "seconds": position.seconds,
        }
        check_weights(objective, optimizer, position, self.config.optim.lr)
        position.epoch, position.step, position.epoch_seconds = position.epoch + 1, 0, 0.0
        position.sums = {}
        self._finish_epoch(line, objective)
        self._save(objective, optimizer)
        if self.agenda.due(position.step)[2] and position.epoch < self.epochs:
            raise self.stop.interrupted()

    def _train_steps(
        self, objective: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[int, float]:
        """Trains what is left of the epoch; returns the images and the rate of its last step.

        Raises:
            Interrupted: If a stop was asked for, with the state saved.
            UserError: If a term, a weight or a moment is not finite.
        """
        position, images, lr = self.position, 0, 0.0
        started, done = time.monotonic(), position.epoch_seconds
        self.passes.begin(position)
        while position.step < self.steps:
            lr = set_learning_rate(
                optimizer, self.config.optim, self._global_step(), self.steps, self.epochs
            )
            images = self._step(objective, optimizer)
            position.step += 1
            position.epoch_seconds = done + time.monotonic() - started
            read, save, stop = self.agenda.due(position.step)
            self.progress.step(position.step, images, self._read_terms() if read else None)
            if (save or stop) and position.step < self.steps:
                self._read_terms()  # never replace a good checkpoint by one with a NaN in it
                check_weights(objective, optimizer, position, self.config.optim.lr)
                self._save(objective, optimizer)
                if stop:
                    raise self.stop.interrupted()
        return images, lr

    def _step(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """One optimizer step; the images it saw in all."""
        images = self.passes.step(objective, self.position)
        if self.position.step == 0:  # once an epoch, as it waits for the device
            found = {*self.position.heads, *learning_heads(self.student)}
            self.position.heads = sorted(found)
        if self.config.optim.clip_grad is not None:
            self.accelerator.clip_grad_norm_(objective.parameters(), self.config.optim.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.student)
        return images

    def _finish_epoch(self, line: dict[str, Any], objective: nn.Module) -> None:
        """Probes, evaluates when due, writes the log line and the best weights."""
        position, started = self.position, time.monotonic()
        result: dict[str, float] = {}
        self._share_statistics()
        if self.probe is not None and self.accelerator.is_main_process:
            line.update(self.probe(self.averaged))
        due = position.epoch % self.config.eval_every == 0 or position.epoch == self.epochs
        if self.scales_of is not None and due:
            position.head_scales = self.scales_of(self.averaged, self._unwrapped(objective))
        if self.evaluation is not None and due:
            result = self.evaluation(self.answering)
        position.seconds += time.monotonic() - started
        line.update(result, seconds=position.seconds)
        better = result and (position.best_top1 is None or result["top1"] > position.best_top1)
        if better:
            position.best_top1, position.best_epoch = result["top1"], position.epoch
        if self.accelerator.is_main_process:
            if better:
                self.save_weights(self.folder.best_file)
            self.folder.append_metrics(line)
            self.accelerator.log(_numbers(line), step=position.epoch)
        self.progress.end(line)

    def save_weights(self, path: Any) -> None:
        """Writes the evaluated weights with what a reader needs to rebuild the model."""
        save_model(path, self.answering, {**self.metadata, **self.position.head_facts})

    def _save(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Writes ``checkpoint/last.pt``: all that the next step depends on.

        What is saved besides, on every process, goes first: it is not behind the checkpoint.
        """
        if self.save_more is not None:
            self.save_more()
        self._share_statistics()
        sums = self.accelerator.reduce(self.position.sums, reduction="mean")
        self.position.sums = sums  # every process goes on from those of the main one
        if self.accelerator.is_main_process:
            average = None if self.ema is None else self.ema.module
            state = run_state(
                self._unwrapped(objective), optimizer, average, self.position, self.classes
            )
            self.folder.checkpoints.save(state, identity(self.config))
        self.agenda.has_saved()

    def _share_statistics(self) -> None:
        for network in (self.student, *([] if self.ema is None else [self.ema.module])):
            share_running_statistics(network, self.accelerator)

    def _read_terms(self) -> dict[str, float]:
        """Mean of each term over the epoch so far; waits for the device."""
        self.agenda.has_read()
        return mean_terms(self.position, self.accelerator, self.config.optim.lr)

    def _global_step(self) -> int:
        return self.position.epoch * self.steps + self.position.step

    def _unwrapped(self, objective: nn.Module) -> nn.Module:
        return self.accelerator.unwrap_model(objective)


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if isinstance(value, int | float)}
