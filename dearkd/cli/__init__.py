"""The ``dearkd`` command: what can be typed, one file a verb, and nothing that takes time to load.

A verb's signature and help are here; its door (`dearkd.launch`, `dearkd.judge`, ...) is imported
inside its function. `tests/test_help.py` holds the line.
"""
