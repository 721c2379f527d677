"""Pins every direct dependency at its lower bound: ``>=1.2`` in pyproject.toml becomes ``==1.2``.

    python scripts/lower_bounds.py > lower.txt
    pip install -c lower.txt -e '.[dev]'

``make lower`` does both in an environment of its own and runs the tests there. What the
dependencies need themselves is left to pip.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def lower_bounds(pyproject: Path) -> list[str]:
    """A constraint for each dependency that has a lower bound, those of the extras included."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    needs = [Requirement(text) for texts in groups for text in texts]
    return [
        f"{need.name}=={bound.version}"
        for need in needs
        for bound in need.specifier
        if bound.operator == ">="
    ]


if __name__ == "__main__":
    print("\n".join(lower_bounds(Path(__file__).parents[1] / "pyproject.toml")))
