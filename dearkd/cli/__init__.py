"""The ``dearkd`` command: what can be typed, one file a verb, and nothing that takes time to load.

A verb's signature and help are here; its door, the file of the same name in another room
(`cli/train.py` calls `training/train.py`), is imported inside its function.
`tests/cli/test_help.py` holds the line.
"""
