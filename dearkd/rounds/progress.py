"""What the rounds of one run say of themselves: their plan, what begins, what came out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dearkd.rounds.folder import Round
from dearkd.rounds.plan import Plan
from dearkd.rounds.result import round_entry
from dearkd.said import command, seconds_text

__all__ = ["RoundsRun", "print_plan", "say_part", "say_result"]


@dataclass(frozen=True)
class RoundsRun:
    """The rounds of one run, with what their parts take."""

    plan: Plan
    folder: Path
    console: Console
    trust: bool

    @property
    def rounds(self) -> tuple[Round, ...]:
        """All of them; their paths are from the root, as sets name their student by its path."""
        place = self.folder.resolve()
        return tuple(Round(place, number + 1) for number in range(self.plan.config.rounds))

    @property
    def again(self) -> str:
        """The command that goes on after an interruption."""
        trust = ["--trust"] if self.trust else []
        return command("dearkd", "distill", "--resume", "--out", self.folder, *trust)

    def seconds_left(self) -> float:
        """Of all parts that are not finished, as they were planned."""
        sets = zip(self.rounds, self.plan.set_seconds, strict=True)
        students = zip(self.rounds, self.plan.student_seconds, strict=True)
        return sum(seconds for part, seconds in sets if not part.has_set) + sum(
            seconds for part, seconds in students if not part.has_student
        )


def say_part(run: RoundsRun, part: Round, what: str) -> None:
    """One line of what begins, and of the time that is left."""
    left = seconds_text(run.seconds_left())
    run.console.print(f"round {part.number} of {len(run.rounds)}, {what}; about {left} left in all")


def say_result(run: RoundsRun, part: Round) -> None:
    """One line of what came out of a round."""
    entry = round_entry(part)
    parts = [f"{entry['train_images']:,} images"]
    forms: dict[str, Callable[[float], str]] = {
        "top1": lambda value: f"top-1 {value:.2f} %",
        "teacher_agreement": lambda value: f"agrees with the teacher on {value:.1%} of its views",
        "loss": lambda value: f"loss {value:.4f}",
    }
    parts += [form(entry[key]) for key, form in forms.items() if entry[key] is not None]
    run.console.print(f"round {part.number}: {', '.join(parts)}")


def print_plan(run: RoundsRun) -> None:
    """Every round with what is there of it and what it takes, and the time of what is left."""
    table = Table("round", "part", "images", "state", "takes about")
    for part, made, trained in zip(
        run.rounds, run.plan.set_seconds, run.plan.student_seconds, strict=True
    ):
        rows = [
            ("images", run.plan.images, part.has_set, part.has_begun_set, made),
            (
                f"{run.plan.config.epochs} epochs",
                run.plan.images * part.number,
                part.has_student,
                part.has_begun_student,
                trained,
            ),
        ]
        for what, images, finished, begun, seconds in rows:
            state = "finished" if finished else "begun" if begun else "to do"
            takes = "" if finished else seconds_text(seconds)
            table.add_row(str(part.number), what, f"{images:,}", state, takes)
    run.console.print(table)
    run.console.print(
        f"about {seconds_text(run.seconds_left())} in all for what is left (a few steps of each "
        "part were measured)"
    )
