"""Write an edited model as a checkpoint.

    kn-sweeps export RUN_DIR CASE_ID OUT

OUT is a folder that `from_pretrained` loads, with the tokenizer and an `edit.json` that says what
was done to which model. It answers as the rows of the run say: as the model was when the case was
scored, alone, in its batch, or after all edits of a sequence so far.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kn_sweeps.commands.console import Parser, command, remark, say
from kn_sweeps.commands.edited import check_case, edited
from kn_sweeps.records.files import permitted_alike, user_path, write_json


def export(run_directory: Path, case: str, out: Path) -> None:
    """Write the model as it was when `case` was scored.

    Raises:
        ValueError: If the run is not finished or did not keep its edits, the case is not one of
            its own or could not be edited, the model is another one by now, or `out` has files.
    """
    directory = check_case(run_directory, case)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists and has files; name a new folder")
    found = edited(directory, case)

    from kn_sweeps.interventions import merge  # slow, and no mistake on the command line needs it

    if (kind := found.settings.model.quantization) is not None:
        remark(f"{kind} weights are written as the plain numbers that they are computed with")
    merge(found.lm, found.edit)
    found.lm.model.save_pretrained(out)
    found.lm.tokenizer.save_pretrained(out)
    permitted_alike(out, "config.json")
    write_json(out / "edit.json", found.about)


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Export one case's model."""
    parser = Parser.of("export", __doc__)
    parser.add_argument("run", type=user_path, help="a finished run's folder, results/SWEEP/RUN")
    parser.add_argument("case", help="a case's id, as in the column `case` of rows.parquet")
    parser.add_argument("out", type=user_path, help="a new folder")
    chosen = parser.parse_args(arguments)
    export(chosen.run, chosen.case, chosen.out)
    say(f"{chosen.out}: the model of {chosen.run.name} after case {chosen.case}")


if __name__ == "__main__":
    sys.exit(main())
