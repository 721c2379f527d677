"""Generation: a small network draws the images, warm from batch to batch.

A chain is a generator with all that it keeps from batch to batch. The images of a batch follow from
the run's seed, the chain's number and the batches of the chain before it, so that neither processes
nor interruption change them.

Source:
    Fast-Datafree, Fang et al. 2022, https://arxiv.org/abs/2112.15278: per batch a few steps of Adam
    on the network and its latent vectors, views inside the loop, R_BN against a running mean.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from synth.classifier import pixel_range
from synth.generator import ImageGenerator
from synth.groups import Group, generator_for, seed_for
from synth.objective import Objective, targets_of
from synth.running_statistics import RunningStatistics
from synth.settings import SynthesisConfig
from synth.stage import Step, run_stage

__all__ = ["GeneratorChain", "Sketch"]

BETAS = (0.5, 0.999)
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of torch's Adam; it counts steps on the CPU


class Sketch:
    """The images that a generator draws from latent vectors, which are optimised too.

    ``low`` and ``high`` are the normalised values of black and white.
    """

    def __init__(
        self,
        generator: ImageGenerator,
        latents: Float[Tensor, "batch dim"],
        labels: Int[Tensor, "batch"],
        low: Float[Tensor, "channels 1 1"],
        high: Float[Tensor, "channels 1 1"],
    ) -> None:
        self.generator, self.labels = generator, labels
        self.low, self.high = low, high
        self.latents = latents.clone().requires_grad_()

    def images(self) -> Float[Tensor, "batch channels height width"]:
        """The images as they are drawn now."""
        unit: Tensor = self.generator(self.latents, self.labels)
        return self.low + (self.high - self.low) * unit

    def limit(self) -> None:
        """Nothing: what the generator draws lies between black and white."""


class GeneratorChain:
    """One chain: the generator's weights, Adam's moments for them, each teacher's running mean.

    Latent vectors are drawn anew for every batch.

    Departure:
        Adam's moments are kept too: where a batch begins is no reason to forget them.
    """

    def __init__(
        self,
        objective: Objective,
        config: SynthesisConfig,
        device: torch.device,
        chain: int = 0,
    ) -> None:
        part, teacher = config.generator, objective.teacher
        classes = teacher.num_classes if part.conditional else None
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which seeds the caller's draws on a GPU too.
            torch.default_generator.manual_seed(seed_for(config.seed, "generator", chain))
            generator = ImageGenerator(
                config.resolutions[0], len(teacher.mean), part.latent_dim, part.width, classes
            )
        self.generator = generator.to(device, objective.exact)
        self.moments: dict[str, dict[str, Tensor]] = {}
        self.running = [RunningStatistics() for _ in objective.recorders]

    def __call__(
        self,
        objective: Objective,
        groups: tuple[Group, ...],
        config: SynthesisConfig,
        device: torch.device,
    ) -> Iterator[Step]:
        """Draw the chain's next batch (a :data:`synth.stage.MakeImages`).

        Raises:
            NotFiniteError: If the objective is no longer finite.
        """
        targets = targets_of(groups, config.objective, device)
        sketch = self._sketch(objective, groups, config, targets.labels.flatten())
        optimizer = self._optimizer(sketch, config)
        pairs = list(zip(objective.recorders, self.running, strict=True))
        for recorder, running in pairs:
            recorder.running = running
        try:
            yield from run_stage(
                objective,
                sketch,
                optimizer,
                targets,
                groups,
                config,
                stage=0,
                edge=sketch.low,
                schedule=_constant_rate,
            )
        finally:
            for recorder, _ in pairs:
                recorder.running = None
        for recorder, running in pairs:
            running.update(recorder.seen)
        self.moments = {
            name: optimizer.state[parameter]
            for name, parameter in self.generator.named_parameters()
        }

    def tensors(self) -> dict[str, Tensor]:
        """All that the chain keeps, by name: what :meth:`load` takes."""
        found = {f"generator.{name}": value for name, value in self.generator.state_dict().items()}
        for name, moments in self.moments.items():
            found |= {f"adam.{key}.{name}": value for key, value in moments.items()}
        for teacher, running in enumerate(self.running):
            for layer, pair in enumerate(running.layers or ()):
                found |= {f"running.{teacher}.{layer}.{i}": value for i, value in enumerate(pair)}
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`tensors` gave after a batch."""
        device = next(self.generator.parameters()).device

        def below(prefix: str) -> dict[str, Tensor]:
            names = [name for name in tensors if name.startswith(prefix)]
            return {name.removeprefix(prefix): tensors[name] for name in names}

        self.generator.load_state_dict(below("generator."))
        for name, _ in self.generator.named_parameters():
            self.moments[name] = {
                key: tensors[f"adam.{key}.{name}"].to("cpu" if key == "step" else device)
                for key in MOMENTS
            }
        for teacher, running in enumerate(self.running):
            values = below(f"running.{teacher}.")
            running.layers = [
                (values[f"{layer}.0"].to(device), values[f"{layer}.1"].to(device))
                for layer in range(len(values) // 2)
            ]

    def _sketch(
        self,
        objective: Objective,
        groups: tuple[Group, ...],
        config: SynthesisConfig,
        labels: Tensor,
    ) -> Sketch:
        latents = [
            torch.randn(
                (len(group.targets), config.generator.latent_dim),
                generator=generator_for(config.seed, group.id, "latents"),
            )
            for group in groups
        ]
        start = torch.cat(latents).to(labels.device, objective.exact)
        teacher = objective.teacher
        return Sketch(self.generator, start, labels, *pixel_range(teacher.mean, teacher.std, start))

    def _optimizer(self, sketch: Sketch, config: SynthesisConfig) -> torch.optim.Adam:
        """Adam with the moments that the generator's weights have from the batches before."""
        part, parameters = config.generator, dict(self.generator.named_parameters())
        optimizer = torch.optim.Adam(
            [
                {"params": list(parameters.values()), "lr": part.lr},
                {"params": [sketch.latents], "lr": part.latent_lr},
            ],
            betas=BETAS,
        )
        for name, moments in self.moments.items():
            optimizer.state[parameters[name]] = moments
        return optimizer


def _constant_rate(iteration: int, iterations: int, peak: float, warmup: int) -> float:
    """The peak in every iteration: a batch is a few steps of a longer way."""
    return peak
