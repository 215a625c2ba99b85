"""Write an edited model as a checkpoint.

    kn-sweeps export RUN_DIR CASE_ID OUT

OUT is a folder that `from_pretrained` loads, with the tokenizer and an `edit.json` that says what
was done to which model. It answers as the rows of the run say: as the model was when the case was
scored, alone, in its batch, or after all edits of a sequence so far.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from kn_sweeps.commands.console import Parser, command, say
from kn_sweeps.records.files import user_path, write_json
from kn_sweeps.records.run_directory import RunDirectory


def export(run_directory: Path, case: str, out: Path) -> None:
    """Write the model as it was when `case` was scored.

    Raises:
        ValueError: If the run is not finished or did not keep its edits, the case is not one of
            its own or could not be edited, the model is another one by now, or `out` has files.
    """
    import torch  # slow, and no mistake on the command line needs it

    from kn_sweeps.config import RunConfig, build
    from kn_sweeps.evaluation.regimes import in_effect
    from kn_sweeps.interventions import merge

    directory = RunDirectory(run_directory)
    if not directory.done():
        raise ValueError(f"{run_directory} is not the folder of a finished run")
    rows = directory.rows()
    cases = list(dict.fromkeys(rows["case"]))
    if case not in cases:
        near = get_close_matches(case, cases, n=3) or cases[:3]
        raise ValueError(f"the run has no case {case!r}; it has {', '.join(near)} and others")
    failures = rows[(rows["case"] == case) & (rows["kind"] == "failed")]["failure"]
    if len(failures):
        raise ValueError(f"case {case} could not be edited: {failures.iloc[0]}")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists and has files; name a new folder")
    edits = directory.edits()
    settings: RunConfig = build(directory.config(), RunConfig)
    lm = settings.model.load(torch.device("cpu"), settings.dtype)
    revision = directory.provenance()["model_revision"]
    if lm.revision != revision:
        raise ValueError(
            f"model {lm.name} is not the one that was edited: the run's was "
            f"{revision}, this is {lm.revision}"
        )
    about = {"model": lm.name, "revision": lm.revision, "run": run_directory.name, "case": case}
    merge(lm, in_effect(edits, rows, case, settings.regime))
    lm.model.save_pretrained(out)
    lm.tokenizer.save_pretrained(out)
    write_json(out / "edit.json", about)


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
