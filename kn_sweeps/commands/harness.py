"""Run tasks of lm-evaluation-harness on an edited model, without exporting it.

    kn-sweeps harness RUN_DIR CASE_ID --tasks TASK,TASK [--limit N] [--fewshot N] [--out FILE]

A TASK is one of lm-evaluation-harness's (`lambada_openai`, `hellaswag`, ...) or a task file
(`mine.yaml`). They are run twice: on the unedited model, and as it was when the case was scored.
It takes the extra `harness`: pip install 'kn_sweeps[harness]'.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kn_sweeps.commands.console import Parser, command, say
from kn_sweeps.commands.edited import check_case, edited
from kn_sweeps.records.files import user_path, write_json

if TYPE_CHECKING:
    from kn_sweeps.models.language_model import LanguageModel

MOMENTS = ("before", "after")


def compared(
    run: Path, case: str, tasks: Sequence[str], limit: int | None, fewshot: int | None
) -> dict[str, Any]:
    """What the tasks say of the unedited model and of the edited one.

    Args:
        run: A finished run's folder.
        case: A case's id.
        tasks: Names of tasks, or task files.
        limit: Questions of each task; None for all.
        fewshot: Examples before each question; None for as many as the task says.

    Returns:
        `about`, which model, run and case; and `before` and `after`, by task and number, as
        lm-evaluation-harness gives them.

    Raises:
        ValueError: If the harness is not installed or does not know a task, the model is a masked
            one, or as `edited.check_case` and `edited.edited`.
    """
    if find_spec("lm_eval") is None:
        raise ValueError("lm-evaluation-harness is not installed; pip install 'kn_sweeps[harness]'")
    files = [user_path(task) for task in tasks if _is_file(task)]
    names = [_named(user_path(task)) if _is_file(task) else task for task in tasks]
    found = edited(check_case(run, case), case, "auto")
    if found.lm.kind == "masked":
        raise ValueError(f"{found.lm.name} is a masked LM: the harness asks causal ones")

    from kn_sweeps.edits import apart
    from kn_sweeps.interventions import applied

    if apart(found.edit)[0]:
        raise ValueError(
            f"what is in effect for case {case} is a text in context; the harness writes questions "
            "of its own, which it would not stand before"
        )
    harness = _Harness(found.lm, names, files, found.settings.batch_size)
    before = harness.run(limit, fewshot)
    with applied(found.lm, found.edit):
        after = harness.run(limit, fewshot)
    return {"about": {**found.about, "tasks": names}, "before": before, "after": after}


class _Harness:
    """Tasks of lm-evaluation-harness, and a model that it asks."""

    def __init__(
        self, lm: LanguageModel, names: Sequence[str], files: Sequence[Path], batch_size: int
    ) -> None:
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        folders = sorted({str(file.parent) for file in files})
        # Its own tasks are thousands of files, which take half a minute to look through.
        self._tasks = TaskManager(
            include_path=folders or None, include_defaults=len(files) < len(names)
        )
        if unknown := [name for name in names if name not in self._tasks.all_tasks]:
            raise ValueError(f"lm-evaluation-harness has no task {', '.join(unknown)}")
        self._names = list(names)
        # It gives a tokenizer without a padding token one.
        tokenizer = copy.deepcopy(lm.tokenizer)
        self._model = HFLM(pretrained=lm.model, tokenizer=tokenizer, batch_size=batch_size)

    def run(self, limit: int | None, fewshot: int | None) -> dict[str, dict[str, float]]:
        """Every number of every task."""
        from lm_eval import simple_evaluate

        found = simple_evaluate(
            self._model,
            tasks=self._names,
            num_fewshot=fewshot,
            limit=limit,
            log_samples=False,
            task_manager=self._tasks,
        )
        assert found is not None
        return {
            task: {name: x for name, x in numbers.items() if isinstance(x, int | float)}
            for task, numbers in found["results"].items()
        }


def _is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml"))


def _named(file: Path) -> str:
    """The name that a task file gives its task."""
    if not file.is_file():
        raise ValueError(f"there is no task file {file}")
    # Not by a YAML reader: such files have tags that only the harness knows.
    found = re.search(
        r"^(?:task|group):\s*[\"']?([^\s\"'#]+)", file.read_text(encoding="utf-8"), re.M
    )
    if found is None:
        raise ValueError(f"{file} names no task; it needs a line `task: NAME`")
    return found[1]


def lines(found: Mapping[str, Any]) -> list[str]:
    """A line a number: task, its name, before, after, and by how much it changed."""
    rows = [("task", "number", *MOMENTS, "change")]
    for task, numbers in found["before"].items():
        for name, before in numbers.items():
            after = found["after"][task].get(name)
            # A number is called `acc,none`: the metric, and what filtered the answers.
            if "," in name and "_stderr" not in name and after is not None:
                errors = [
                    found[m][task].get(name.replace(",", "_stderr,", 1), float("nan"))
                    for m in MOMENTS
                ]
                told = [f"{x:.4f} +- {e:.4f}" for x, e in zip((before, after), errors, strict=True)]
                rows.append((task, name.removesuffix(",none"), *told, f"{after - before:+.4f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run tasks before and after one case's edit."""
    parser = Parser.of("harness", __doc__)
    parser.add_argument("run", type=user_path, help="a finished run's folder, results/SWEEP/RUN")
    parser.add_argument("case", help="a case's id, as in the column `case` of rows.parquet")
    parser.add_argument("--tasks", required=True, help="names or files, separated by commas")
    parser.add_argument("--limit", type=int, help="questions of each task (default: all)")
    parser.add_argument("--fewshot", type=int, help="examples before each (default: the task's)")
    parser.add_argument("--out", type=user_path, help="a JSON file for all numbers")
    chosen = parser.parse_args(arguments)
    tasks = [name.strip() for name in chosen.tasks.split(",") if name.strip()]
    if not tasks:
        parser.error("--tasks names no task")
    found = compared(chosen.run, chosen.case, tasks, chosen.limit, chosen.fewshot)
    for line in lines(found):
        say(line)
    if chosen.out:
        write_json(chosen.out, found)


if __name__ == "__main__":
    sys.exit(main())
