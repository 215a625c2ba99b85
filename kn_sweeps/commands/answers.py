"""What a model answered before and after its edits, question by question.

    kn-sweeps answers RUN [--rows N]

RUN is a run's folder, results/SWEEP/RUN. Free answers are shown where they were asked for, else
greedy ones as long as the longer target.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kn_sweeps.cases import Query
from kn_sweeps.commands.console import Parser, command, say
from kn_sweeps.mistakes import shortened
from kn_sweeps.records.files import user_path
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.showing.sheets import Sheet

ROWS = 20
_COLUMNS = (
    *("case", "kind", "group", "prefix", "suffix", "old", "new", "failure"),
    *("pre_answer", "post_answer", "pre_generated", "post_generated"),
)
_WIDE = 60


def answers(directory: Path, rows: int = ROWS) -> Sheet:
    """The first rows of a finished run.

    Raises:
        ValueError: If the run is not finished.
    """
    run = RunDirectory(directory)
    if not run.done():
        raise ValueError(f"{directory} is no finished run; name its folder, results/SWEEP/RUN")
    lines = []
    for row in run.first_rows(rows, _COLUMNS).to_dict("records"):
        asked = row["kind"] + f" ({row['group']})" * bool(row["group"])
        if row["kind"] == "failed":
            lines.append((row["case"], asked, shortened(row["failure"], _WIDE), "", "", ""))
            continue
        if row["kind"] == "sentence":
            continue
        text = Query(row["prefix"], row["suffix"]).text
        said = [
            row[f"{when}_{'answer' if row[f'{when}_generated'] is None else 'generated'}"]
            for when in ("pre", "post")
        ]
        change = row["old"] if row["old"] == row["new"] else f"{row['old']} -> {row['new']}"
        before, after = (shortened(" ".join((one or "").split()), _WIDE) for one in said)
        lines.append((row["case"], asked, shortened(text, _WIDE), before, after, change))
    head = ("case", "asked", "text", "before", "after", "should be")
    return Sheet(f"answers of {directory}", lines, head)


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the answers of one run."""
    parser = Parser.of("answers", __doc__)
    parser.add_argument("run", type=user_path, help="its folder, results/SWEEP/RUN")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"how many at most ({ROWS})")
    chosen = parser.parse_args(arguments)
    say(answers(chosen.run, chosen.rows).text())


if __name__ == "__main__":
    sys.exit(main())
