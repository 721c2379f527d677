"""The views of a run by its files: those of this version say them, older ones do not."""

import json

import pytest
from test_report import write_run

from dearkd.report.collect import collect
from dearkd.report.epoch_views import epoch_views


@pytest.mark.parametrize(
    ("settings", "known", "views"),
    [
        ([], None, 700),  # of 719 images
        (["data.repeats=3"], None, 700),  # each of a third of them, three times
        (["data.fraction=0.5", "data.keep_steps=true"], None, 1400),
        (["data.fraction=0.5", "data.keep_steps=true"], 1350, 1350),
    ],
)
def test_views_are_those_of_the_whole_batches_of_an_epoch(tmp_path, settings, known, views):
    folder = write_run(tmp_path / "run", 90.0, ["data.batch_size=50", *settings], method="ce")
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"train_images": 719} | ({} if known is None else {"epoch_views": known})
    (folder / "summary.json").write_text(json.dumps(summary))
    (run,) = collect([folder]).runs
    assert epoch_views(run) == [views] * 3
    (folder / "metrics.jsonl").unlink()
    assert epoch_views(collect([folder]).runs[0]) == [views] * 3
