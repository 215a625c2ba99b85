"""The model as it was when a case of a finished run was scored: what some commands begin with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from kn_sweeps.records.run_directory import RunDirectory

if TYPE_CHECKING:
    from kn_sweeps.config import RunConfig
    from kn_sweeps.edits import Edit
    from kn_sweeps.models.language_model import LanguageModel


@dataclass(frozen=True)
class Edited:
    """A model and an edit of it.

    Attributes:
        lm: The model, unedited.
        edit: What was in effect when the case was scored: its edit alone, its batch, or all edits
            of a sequence so far.
        settings: The run's.
        about: Which model, weights, run and case these are.
    """

    lm: LanguageModel
    edit: Edit
    settings: RunConfig
    about: dict[str, str]


def check_case(run: Path, case: str) -> RunDirectory:
    """The directory of a finished run that could edit a case.

    Raises:
        ValueError: If the run is not finished, or the case is not one of its own or could not be
            edited.
    """
    directory = RunDirectory(run)
    if not directory.done():
        raise ValueError(f"{run} is not the folder of a finished run")
    rows = directory.rows(["case", "kind", "failure", "after"])
    rows = rows[rows["after"] == "edit"]
    cases = list(dict.fromkeys(rows["case"]))
    if case not in cases:
        near = get_close_matches(case, cases, n=3) or cases[:3]
        raise ValueError(f"the run has no case {case!r}; it has {', '.join(near)} and others")
    failures = rows[(rows["case"] == case) & (rows["kind"] == "failed")]["failure"]
    if len(failures):
        raise ValueError(f"case {case} could not be edited: {failures.iloc[0]}")
    return directory


def edited(directory: RunDirectory, case: str, device: str = "cpu") -> Edited:
    """Load what `check_case` has checked.

    Args:
        directory: The run's.
        case: The case's id.
        device: Where the model goes, as `device` of a config says it.

    Raises:
        ValueError: If the run did not keep its edits or the model is another one by now.
    """
    from kn_sweeps.config import RunConfig, build
    from kn_sweeps.evaluation.regimes import in_effect
    from kn_sweeps.models.loading import device as device_of

    edits = directory.edits()
    settings: RunConfig = build(directory.config(), RunConfig)
    # On one device: edits are written into its weights, or others run it.
    model = replace(settings.model, device_map=None)
    lm = model.load(device_of(device), settings.dtype)
    revision = directory.provenance()["model_revision"]
    if lm.revision != revision:
        raise ValueError(
            f"model {lm.name} is not the one that was edited: the run's was "
            f"{revision}, this is {lm.revision}"
        )
    about = {"model": lm.name, "revision": lm.revision, "run": directory.path.name, "case": case}
    return Edited(lm, in_effect(edits, directory.rows(), case, settings.regime), settings, about)
