"""Makes the tables between the marks of the pages of results anew from the records of studies.

    python scripts/results_tables.py

A mark names the record: ``<!-- sweep scripts/results/studies/NAME.json -->`` to ``<!-- end -->``.
"""

from pathlib import Path

from dearkd.report.study_tables import filled_blocks

ROOT = Path(__file__).parents[1]
PAGES = ("RESULTS.md", "scripts/results/SPEED.md", "scripts/results/STUDIES.md")


def main() -> None:
    for page in PAGES:
        file = ROOT / page
        text = file.read_text(encoding="utf-8")
        file.write_text(filled_blocks(text, ROOT), encoding="utf-8")


if __name__ == "__main__":
    main()
