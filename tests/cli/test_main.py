"""What the installed command settles before any verb runs."""

import json
import os
import subprocess
import sys

from PIL import Image

PREDICT = """
import sys
from contextlib import suppress
from dearkd.cli.main import main

words = sys.argv[1:]
for option in [], ["--json"]:
    sys.argv = ["dearkd", "predict", "digits", *words, *option]
    with suppress(SystemExit):
        main()
    print("---")
"""


def test_a_file_name_that_is_no_utf8_is_printed_escaped(tmp_path):
    name = os.fsencode(tmp_path / "caf") + b"\xe9.png"
    Image.new("RGB", (8, 8)).save(os.fsdecode(name), "PNG")
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, name],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=True,
    )
    plain, as_json, _ = done.stdout.decode().split("---\n")
    assert plain.startswith(f"{tmp_path}/caf\\udce9.png\n")
    assert [row["image"] for row in json.loads(as_json)] == [os.fsdecode(name)]
