"""The report's page of real runs: single images, synthetic sheets, and all of it in a browser."""

import base64
import dataclasses
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from commands import invoke, refused
from conftest import quiet_train
from PIL import Image

from dearkd.analysis.predictions import Answers, Predictions
from dearkd.data.decode import BadImageError
from dearkd.data.sources import DigitsSource
from dearkd.pages.page import Note, Plots, Section, Sheet, Table, page
from dearkd.pages.pictures import thumbnail_uri
from dearkd.pages.plots import COLOURS, INK
from dearkd.report.collect import collect
from dearkd.report.mistakes_chapter import (
    MATRIX_CLASSES,
    confusion_counts,
    extremes,
    mistake_section,
)

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESK, PHONE = 1280, 390
"""Widths in pixels."""
SECONDS = 300
"""To wait at most, on a machine busy with other work."""


def written(out, *args):
    """The page that the command writes."""
    result = invoke("report", *args, "--out", out)
    assert result.exit_code == 0, result.output
    return out.read_text()


def copied(runs, name, tmp_path):
    return shutil.copytree(runs / name, tmp_path / name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, toy_teacher):
    """Teacher, synthetic set and two students: from real images, and from the synthetic ones."""
    root = tmp_path_factory.mktemp("report") / "runs"
    shutil.copytree(toy_teacher, root / "teacher")
    options = ["--res", 16, "--iters", 8, "--per-class", 4, "--set", "log_interval=2"]
    result = invoke(
        "synthesize", *options, "--verifier", root / "teacher", "--out", root / "synthetic"
    )
    assert result.exit_code == 0, result.output
    student = {"student": "toy_student", "stage1": 2, "stage2": 1}
    student["teacher.name"] = str(root / "teacher")
    quiet_train({**student, "out": str(root / "dearkd")})
    result = invoke("analyze", root / "dearkd", "--images", 32, "--maps", 2)
    assert result.exit_code == 0, result.output
    data = {"data.train": str(root / "synthetic"), "data.evaluation": "digits"}
    quiet_train({**student, **data, "out": str(root / "data-free")}, ["data.batch_size=20"])
    return root


@pytest.fixture(scope="module")
def page_file(runs):
    written(runs / "report.html", runs)
    return runs / "report.html"


def test_a_synthetic_set_a_run_was_trained_on_is_taken_along(runs):
    report = collect([runs / "data-free"])
    assert [item.path for item in report.sets] == [runs / "synthetic"]


def test_predictions_that_cannot_be_had_are_explained(runs, tmp_path):
    cut = copied(runs, "teacher", tmp_path)
    text = (cut / "config.yaml").read_text()
    (cut / "config.yaml").write_text(text.replace("train: digits", f"train: {tmp_path}/gone"))
    (cut / "predictions.safetensors").unlink(missing_ok=True)
    out = tmp_path / "page.html"
    assert invoke("report", cut, "--out", out).exit_code == 0
    assert "gone&#39; does not exist" in out.read_text()


def test_trust_is_for_runs_that_bring_code(runs, tmp_path, monkeypatch):
    out = tmp_path / "page.html"
    line = refused("report", runs / "dearkd", "--trust", "--out", out)
    assert line.endswith("runs/dearkd runs no code; leave it out")
    assert not out.exists()
    monkeypatch.setattr("dearkd.trained.resolve.MODELS_BY_TRUST", {"toy_student"})
    assert "surest about" in written(out, runs / "dearkd", "--trust")


def test_runs_of_both_precisions_are_asked_in_one_go(runs, tmp_path):
    half = copied(runs, "teacher", tmp_path)
    text = (half / "config.yaml").read_text()
    (half / "config.yaml").write_text(text.replace("\nprecision: fp32", "\nprecision: bf16"))
    for file in (half, runs / "dearkd"):
        (file / "predictions.safetensors").unlink(missing_ok=True)
    text = written(tmp_path / "page.html", runs / "dearkd", half)
    assert "no single images" not in text
    assert text.count("the images it is surest about") == 2


def answers(logits, labels, class_names=("a", "b", "c")):
    confidence, read = torch.tensor(logits).softmax(1).max(1)
    return Predictions(
        labels=torch.tensor(labels),
        heads={"logits": Answers(read, confidence)},
        ids=[str(index) for index in range(len(labels))],
        class_names=class_names,
        source=DigitsSource("test"),
    )


def test_confusion_counts_are_those_of_a_loop():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 3).tolist(), torch.randint(3, (50,)).tolist()
    expected = np.zeros((3, 3), int)
    for row, label in zip(logits, labels, strict=True):
        expected[label, row.index(max(row))] += 1
    np.testing.assert_array_equal(confusion_counts(answers(logits, labels)), expected)


def test_the_pairs_confused_most_often_are_those_of_a_loop(runs):
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 4).tolist(), torch.randint(4, (50,)).tolist()
    found = answers(logits, labels, tuple("abcd"))
    counts = confusion_counts(found)
    pairs = [(-counts[i, j], i, j) for i in range(4) for j in range(4) if i != j]
    expected = [f"{'abcd'[i]} \u2192 {'abcd'[j]}: {-count}" for count, i, j in sorted(pairs)[:6]]
    blocks = mistake_section(collect([runs]), lambda _: found).blocks
    table = next(block for block in blocks if isinstance(block, Table))
    assert [row[1] for row in table.rows] == expected


@pytest.mark.parametrize("large", [0, 1, 2])
def test_each_run_of_few_classes_has_its_matrix(runs, large):
    report = collect([runs])
    several = tuple(map(str, range(MATRIX_CLASSES + 1)))

    def predicted(run):
        names = several if run is report.runs[large] else several[:3]
        return answers([[0, 1, 0.0]], [1], names)

    blocks = mistake_section(report, predicted).blocks
    shown = [plot.title for block in blocks if isinstance(block, Plots) for plot in block.plots]
    assert shown == [run.name for run in report.runs if run is not report.runs[large]]


def test_the_surest_images_right_and_wrong():
    found = answers([[1, 0, 0], [9, 0, 0], [0, 5, 0], [0, 0, 7.0], [0, 2, 0]], [0, 0, 0, 2, 2])
    assert extremes(found, 2) == ([1, 3], [2, 4])


def test_an_image_that_has_become_unreadable_is_counted_and_ends_no_report(runs):
    class Gone(DigitsSource):
        def image(self, index):
            if index == 1:
                raise BadImageError(self.name(index), "no image")
            return super().image(index)

    found = answers([[1, 0, 0], [9, 0, 0], [0, 5, 0.0]], [0, 0, 0])
    found = dataclasses.replace(found, source=Gone("test"))
    blocks = mistake_section(collect([runs / "dearkd"]), lambda run: found).blocks
    (sheet,) = (block for block in blocks if isinstance(block, Sheet))
    told = [(row.note, len(row.pictures)) for row in sheet.rows]
    assert told == [("1 image cannot be read any more", 1), ("", 1)]


def test_a_sheet_shows_every_class_with_its_verdicts(runs, tmp_path):
    manifest = json.loads((runs / "synthetic/manifest.json").read_text())
    out = tmp_path / "page.html"
    assert invoke("report", runs / "synthetic", "--out", out).exit_code == 0
    text = out.read_text()
    assert text.count('class="picture"') == len(manifest["images"]) == 40
    wrong = sum(image["verifier"]["prediction"] != image["target"] for image in manifest["images"])
    assert text.count('class="bad">V \u2192') == wrong
    share = manifest["quality"]["verifier"]["recognition"]["overall"]
    assert f"{100 * share:.1f} %" in text


def test_diversity_beside_a_set_is_shown_with_its_error(runs, tmp_path):
    folder = copied(runs, "synthetic", tmp_path)
    options = ["--features", runs / "teacher", "--against", "digits", "--limit", 4]
    options += ["--verifier", runs / "teacher"]
    assert invoke("eval", folder, *options).exit_code == 0
    stored = json.loads((folder / "diversity.json").read_text())
    text = written(tmp_path / "page.html", folder)
    assert "distance (teacher, up to 4 a class), within classes" in text
    for part in (stored["features"], stored["reference"]["features"]):
        shown = f"{part['within_class']:.4f} \u00b1 {part['within_class_standard_error']:.4f}"
        assert shown in text
    assert f"{stored['nearness']['coverage']:.4g}" in text
    row = text.partition("recognised by teacher, up to 4 a class, %")[2][:80]
    assert f"{stored['verifier']['top1']:.2f}" in row
    manifest = json.loads((folder / "manifest.json").read_text())
    assert f"{manifest['quality']['verifier']['diversity']['overall']:.4f}" in text
    table = written(tmp_path / "table.md", folder)
    assert f"{manifest['quality']['verifier']['diversity']['overall']:.4f} |" in table


def test_a_set_of_parquet_shards_has_its_sheet_too(tmp_path):
    folder = tmp_path / "set"
    args = ["--res", 16, "--iters", 2, "--per-class", 2, "--classes", "2,5", "--format", "parquet"]
    assert invoke("synthesize", *args, "--out", folder).exit_code == 0
    out = tmp_path / "page.html"
    assert invoke("report", folder, "--out", out).exit_code == 0
    assert out.read_text().count('class="picture"') == 4


def test_a_set_that_is_unfinished_or_whose_images_are_gone_says_so(runs, tmp_path):
    folder = copied(runs, "synthetic", tmp_path)
    image, other = list((folder / "3").iterdir())[:2]
    image.write_bytes(image.read_bytes()[:60])
    assert written(tmp_path / "page.html", folder).count('class="picture"') == 39
    other.unlink()
    shutil.rmtree(folder / "5")
    text = written(tmp_path / "page.html", folder)
    assert "5 of 40 images are missing, of class 3 (1 of 4), 5 (4 of 4)" in text
    assert text.count('class="pictures"') == 9  # no row without a picture
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name.isdigit():
            shutil.rmtree(entry)
    out = tmp_path / "page.html"
    assert invoke("report", folder, "--out", out).exit_code == 0
    assert "its images are no longer there" in out.read_text()
    (folder / "manifest.json").unlink()
    assert invoke("report", folder, "--out", out).exit_code == 0
    assert "unfinished: 1 group of images done" in out.read_text()


def test_small_pictures_grow_by_whole_pixels_and_large_ones_shrink():
    small = thumbnail_uri(Image.new("L", (16, 8)), 72)
    assert Image.open(from_uri(small)).size == (64, 32)
    large = thumbnail_uri(Image.new("CMYK", (500, 1000)), 72)
    assert Image.open(from_uri(large)).size == (72, 144)
    assert Image.open(from_uri(thumbnail_uri(Image.new("RGB", (1, 1)), 72))).size == (72, 72)


def from_uri(uri):
    return io.BytesIO(base64.b64decode(uri.partition(",")[2]))


def test_the_page_has_every_chapter_and_its_real_numbers(runs, page_file):
    text = page_file.read_text()
    for title in ("Results", "Curves", "Attention", "Mistakes", "Synthetic images", "What ran"):
        assert f"<h2>{title}</h2>" in text
    summary = json.loads((runs / "dearkd/summary.json").read_text())
    assert f"{summary['top1']:.2f}" in text
    assert 'role="img" aria-label="Accuracy on the evaluation images, %"' in text
    assert summary["peak_memory_bytes"] > 2**27
    assert f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB" in text
    assert summary["commit"] in text
    manifest = json.loads((runs / "synthetic/manifest.json").read_text())
    assert manifest["config"]["objective"]["bn_relative"]
    assert f"bn {manifest['bn_weight']:.3g} (relative), ep 1, triplet 0.5" in text
    again = f"dearkd synthesize {runs}/synthetic/synthesize.yaml --out {runs}/synthetic-again"
    assert again in text
    assert "http" not in text.partition("<main>")[2].partition("</main>")[0]


@pytest.fixture(scope="module")
def chromium():
    if BROWSER is None:
        pytest.skip(f"no browser on PATH ({', '.join(NAMES)})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(chromium, page_file):
    """The drawn page, what it asked the network for, and what the console complained about."""
    tab = chromium.new_page(viewport={"width": DESK, "height": 900}, color_scheme="light")
    requests, complaints = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.set_default_timeout(SECONDS * 1000)
    tab.goto(page_file.as_uri())
    tab.wait_for_selector("html[data-ready=yes]", state="attached")
    return tab, requests, complaints


def ink(colour):
    """A hex colour as a browser computes it."""
    return f"rgb({', '.join(str(int(colour[start : start + 2], 16)) for start in (1, 3, 5))})"


def wait_for_ink(tab, mode):
    """Until the plots' text has the colour of a mode."""
    tab.wait_for_function(
        "c => [...document.querySelectorAll('.xtick text')].every(t => t.style.fill === c)",
        arg=ink(INK[mode]["text"]),
    )


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_the_page_is_whole_in_a_browser(opened, tmp_path, width, mode):
    tab, requests, complaints = opened
    tab.emulate_media(color_scheme=mode)
    tab.set_viewport_size({"width": width, "height": 900})
    wait_for_ink(tab, mode)
    plots = tab.locator(".plot").count()
    assert plots > 20
    tab.wait_for_function(
        "() => [...document.querySelectorAll('.plot')].every(p => "
        "p.querySelector('svg.main-svg')?.clientWidth === p.clientWidth && p.clientWidth > 250)"
    )
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    shot = Image.open(io.BytesIO(tab.screenshot(full_page=True, path=tmp_path / "shot.png")))
    assert shot.width == width
    pixels = np.asarray(shot.convert("RGB"))
    assert (pixels[0, 0].mean() > 200) == (mode == "light")
    for colour in COLOURS[:3]:  # each run's curves were drawn
        rgb = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        assert (pixels == rgb).all(-1).sum() > 100


def test_a_phone_shows_who_learned_how_beside_the_top1_without_scrolling(opened):
    tab, _, _ = opened
    tab.set_viewport_size({"width": PHONE, "height": 900})
    table = tab.locator("section#results table").first
    shown = [table.get_by_text(words).first for words in ("labels alone", "DearKD, two stages")]
    shown += table.locator("tbody td:nth-child(2)").all()  # top-1
    assert len(shown) == 2 + 3
    for element in shown:
        box = element.bounding_box()
        assert box["x"] + box["width"] <= PHONE


def test_a_click_hides_a_run_in_all_plots(opened):
    tab, _, _ = opened
    count = "document.querySelectorAll('.scatterlayer .trace').length"
    before = tab.evaluate(count)
    box = tab.locator(".legend input[data-name=dearkd]").first
    box.uncheck()
    tab.wait_for_function(f"n => {count} < n - 6", arg=before)
    box.check()
    tab.wait_for_function(f"n => {count} === n", arg=before)


def test_on_paper_it_is_black_on_white_and_nothing_is_cut_off(opened):
    tab, _, _ = opened
    tab.emulate_media(media="print", color_scheme="dark")
    tab.set_viewport_size({"width": 700, "height": 1000})  # A4 without its margins
    wait_for_ink(tab, "light")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.wait_for_function(
        "() => [...document.querySelectorAll('.plot')].every(p => "
        "p.querySelector('svg.main-svg').clientWidth <= p.clientWidth)"
    )
    assert tab.evaluate("document.documentElement.scrollWidth") <= 700
    assert tab.pdf(format="A4").startswith(b"%PDF")
    tab.emulate_media(media="screen", color_scheme="light")
    wait_for_ink(tab, "light")


def test_chapters_of_one_name_have_anchors_of_their_own():
    names = ("Study few", "Study few 2", "Study few", "Study few")
    text = page("title", [], [Section(name, [Note("text")]) for name in names])
    anchors = re.findall(r'<section id="(.*?)">', text)
    assert anchors == ["study-few", "study-few-2", "study-few-3", "study-few-4"]
    assert re.findall(r'<a href="#(.*?)">', text) == anchors


def test_a_page_forbids_itself_the_network(chromium, tmp_path):
    (tmp_path / "page.html").write_text(page("title", [], [Section("One", [Note("text")])]))
    tab = chromium.new_page()
    tab.set_default_timeout(SECONDS * 1000)
    tab.goto((tmp_path / "page.html").as_uri())
    blocked = tab.evaluate(
        """() => new Promise(done => {
            document.addEventListener('securitypolicyviolation', e => done(e.blockedURI));
            fetch('http://127.0.0.1:1/x').catch(() => {});
        })"""
    )
    assert blocked == "http://127.0.0.1:1/x"
