"""The ``dearkd`` command: what can be typed, one file a verb, and nothing that takes time to load.

It stands beside the package ``dearkd`` and not in it: importing anything of ``dearkd`` registers
its models with timm, which imports torch, and that takes seconds. So a verb's signature and help
are here, its door (`dearkd.launch`, `dearkd.judge`, ...) is imported inside its function, and
``--help``, ``--version`` and shell completion answer at once. `tests/test_help.py` holds the line.
"""
