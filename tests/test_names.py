"""What one module takes from another is in that one's ``__all__``, and so is all that is public."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for package in ("dearkd", "synth")
    for file in sorted((ROOT / package).rglob("*.py"))
}
TREES = {name: ast.parse(file.read_text()) for name, file in FILES.items()}


def _listed(tree):
    """The names in ``__all__``, of which some are spread from a tuple; None where there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return {one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)}
    return None


def _taken(tree):
    """(module, name) of what is imported from modules of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in TREES:
            for one in node.names:
                if f"{node.module}.{one.name}" not in TREES:
                    yield node.module, one.name


def _unlisted():
    listed = {name: _listed(tree) for name, tree in TREES.items()}
    wanted = {pair for tree in TREES.values() for pair in _taken(tree)}
    for name, tree in TREES.items():
        kinds = (ast.FunctionDef, ast.ClassDef)
        wanted |= {
            (name, node.name)
            for node in tree.body
            if isinstance(node, kinds)
            and "register_model" not in map(ast.unparse, node.decorator_list)  # timm lists those
        }
    for module, name in sorted(wanted):
        known = listed[module]
        if known is not None and not name.startswith("_") and name not in known:
            yield f"{module}: {name}"


def test_what_is_public_is_listed():
    assert list(_unlisted()) == []
