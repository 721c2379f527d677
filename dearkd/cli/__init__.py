"""The ``dearkd`` command: one file for each verb, with its signature and its help.

A verb's door is the file of the same name in another room (`cli/train.py` calls
`training/train.py`). It is imported inside the verb's function, so that `dearkd --help` loads
nothing that takes time, which `tests/cli/test_help.py` checks.
"""
