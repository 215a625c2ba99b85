"""The command line: one message for a mistake, a non-zero exit, and what --help shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from kn_sweeps.commands.launch import of_each_run
from tests import forked

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["tracker=none", "dataset=pararel", "dataset.relations=[P36]", "limit=2", "method=none"]


HEAVY = ("torch", "transformers", "wandb", "datasets")


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command without official data."""
    environment = {k: v for k, v in os.environ.items() if k != "KN_SWEEPS_DATA"}
    return forked.run([sys.executable, *arguments], cwd=folder, env=environment)


def launch(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "launch.py")
    return python(tmp_path, script, *arguments, f"results_dir={tmp_path}/results")


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [
        (
            "method=rome,memit method.layer=3 seed=1",
            "method=rome,memit method.layer=choice(3) seed=1",
        ),
        ("method=rome,memit method.layer=3,4", None),
        (
            "method=rome,memit method.a=[1,2] +method.b=x",
            "method=rome,memit method.a=choice([1,2]) +method.b=choice(x)",
        ),
        (
            "method@method.of=rome,ft method.of.layer=3 method.x=1",
            "method@method.of=rome,ft method.of.layer=choice(3) method.x=1",
        ),
        ("-m method=rome method.layer=3 methods=1,2", None),
        ("method=rome,memit ~method.layer method.steps= =", None),
    ],
)
def test_what_belongs_to_a_swept_choice_is_left_to_the_runs(
    given: str, handed_on: str | None
) -> None:
    assert of_each_run(given.split()) == (handed_on or given).split()


def test_a_key_that_only_the_swept_methods_have_is_taken(tmp_path: Path) -> None:
    done = launch(tmp_path, "-m", "method=rome,memit", "method.clamp_norm=3", "dry_run=true")
    assert "method=memit method.clamp_norm=3" in done.stderr
    assert done.returncode == 0


def test_help_shows_groups_and_knobs(tmp_path: Path) -> None:
    done = launch(tmp_path, "--help")
    assert done.returncode == 0
    for word in (
        "method: alphaedit, emmet, ft, ike, kn, locft, lora, memit, none, random, random_rome",
        "rome, ultraedit",
        "dataset: agreement, blimp, conflict_edit, core_relations",
        "measurement: cooccurrence, faithfulness, paths, perplexity, tracing",
        "shard",
        "rerun",
    ):
        assert word in done.stdout
    assert "KN_SWEEPS_DATA" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=knn"], "unknown method 'knn' (did you mean kn?); choose from alphaedit, emmet"),
        (["method=roem"], "(did you mean rome?)"),
        (["model=tiny-gpt2"], "unknown model 'tiny-gpt2' (did you mean tiny_gpt2?)"),
        (["-m", "method=kn,roem"], "(did you mean rome?)"),
        (["-m", "method=kn,rome", "method.tresh=3"], "(did you mean threshold?)"),
        (["hydra/launcher=slrum"], "(did you mean slurm?); choose from local"),
        (["+dataset.path=???"], "dataset.path has no value yet (it is ???)"),
        (["method.tresh=1"], "unknown key method.tresh (did you mean threshold?)"),
        (["sed=1"], "unknown key sed (did you mean seed?)"),
        (["device=gpu"], "Input should be 'auto', 'cpu' or 'cuda'"),
        (["dataset=pararel", "dataset.relations=[P361]"], "unknown relation 'P361'"),
        (["dataset.paradigms=[anaphor]"], "unknown paradigm 'anaphor'"),
        (["dataset.root=nowhere"], "does not exist"),
        (["dataset.paradigms=[determiner_noun_agreement_2]"], "no causal LM can be edited on"),
        (["model=gpt2"], "model.name=/path/to/folder"),
        (["model=./mine/"], "of a folder say model=checkpoint model.name=DIR"),
        (["model=checkpoint"], "model.name has no value yet (it is ???): say model.name=VALUE"),
        (
            ["model=checkpoint", "model.name=a/b", "method=rome", "method.steps=9"],
            "not tuned for model b: say all of method.clamp_norm, method.layer, method.weight",
        ),
        (
            ["metric=[reliabilty]"],
            "choose from cooccurrence, faithfulness, fluency, forgetting, generality",
        ),
    ],
)
def test_a_mistake_is_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = launch(tmp_path, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("error") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("summary.json"))


def test_a_sweep_goes_on_after_a_failed_run_and_says_so(tmp_path: Path) -> None:
    relations = "dataset.relations=[P998],[P36],[P999]"
    done = launch(tmp_path, "-m", *QUICK[:2], *QUICK[3:], relations)
    assert done.returncode == 1
    assert "Error executing job" not in done.stderr
    for name in ("P998", "P999"):
        assert f"unknown relation '{name}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.rglob("summary.json"))) == 1


def test_a_tilde_is_the_home_directory_wherever_a_path_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (home / "facts").mkdir(parents=True)
    folders = [ROOT / f"kn_sweeps/data/bundled/pararel/{name}" for name in ("facts", "patterns")]
    for folder in folders:
        (home / "facts" / folder.name).symlink_to(folder)
    (home / "model").symlink_to(ROOT / "kn_sweeps/tiny/weights/tiny_gpt2")
    pretrained = ["model=gpt2", "model.name=~/model", "model.layers=null"]
    arguments = [*QUICK, *pretrained, "dataset.root=~/facts", "results_dir=~/results"]
    for more in ([], ["-m", "seed=1"]):
        done = python(tmp_path, str(ROOT / "launch.py"), *more, *arguments)
        assert done.returncode == 0, done.stderr
    assert len(list((home / "results").rglob("summary.json"))) == 2
    for program in ("analysis.table", "kn_sweeps.commands.status"):
        assert "none" in python(tmp_path, "-m", program, "~/results/default").stdout, program
    done = python(tmp_path, str(ROOT / "launch.py"), "-m", *QUICK, "results_dir=~nobody-here/r")
    assert "~nobody-here/r: there is no such home directory" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_sweep_run_twice_computes_once(tmp_path: Path) -> None:
    first = launch(tmp_path, "-m", *QUICK, "seed=0,1")
    assert first.returncode == 0, first.stderr
    second = launch(tmp_path, "-m", *QUICK, "seed=0,1")
    assert second.returncode == 0
    assert "2 runs: 0 to do, 2 done" in second.stderr
    assert "done:" not in second.stderr


@pytest.mark.slow
def test_a_killed_run_continues_with_the_rows_it_would_have_had(tmp_path: Path) -> None:
    arguments = ["tracker=none", "dataset=pararel", "dataset.relations=[P36]", "limit=16"]
    arguments += ["method=rome", "method.steps=8"]
    whole = launch(tmp_path, *arguments, "sweep=whole")
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, str(ROOT / "launch.py"), *arguments, "sweep=cut"]
    process = forked.Popen(
        [*command, f"results_dir={tmp_path}/results"], cwd=tmp_path, env=os.environ
    )
    parts = tmp_path / "results" / "cut"
    deadline = time.monotonic() + 100
    while not list(parts.glob("*/parts/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(parts.glob("*/summary.json"))
    assert launch(tmp_path, *arguments, "sweep=cut").returncode == 0
    frames = [
        pd.read_parquet(next((tmp_path / "results" / name).glob("*/rows.parquet")))
        for name in ("whole", "cut")
    ]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def imported_by(folder: Path, program: str, *arguments: str) -> tuple[set[str], str]:
    """The slow libraries that a program has imported by its end, and what it printed."""
    script = (
        "import atexit, runpy, sys\n"
        f"atexit.register(lambda: print('HEAVY', *(m for m in {HEAVY} if m in sys.modules)))\n"
        f"sys.argv = [{program!r}, *sys.argv[1:]]\n"
        f"runpy.run_module({program!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "KN_SWEEPS_DATA"}
        | {"PYTHONPATH": str(ROOT)},
        timeout=200,
        check=False,
    )
    *printed, last = done.stdout.splitlines()
    return set(last.split()[1:]), "\n".join([*printed, done.stderr])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["method=rome", "method.layr=3"],
        ["-m", "method=rome,memit", "method.layr=3"],
        ["model=tiny-gpt2"],
        ["device=gpu"],
        ["-m", "dtype=float32,half"],
    ],
)
def test_composing_and_naming_imports_no_model_library(
    tmp_path: Path, arguments: list[str]
) -> None:
    heavy, printed = imported_by(tmp_path, "launch", *arguments)
    assert "error: " in printed or "KN_SWEEPS_DATA" in printed
    assert not heavy


@pytest.mark.slow
def test_what_is_done_is_skipped_tabulated_and_reported_without_a_model_library(
    tmp_path: Path,
) -> None:
    arguments = ["-m", *QUICK[:-1], "method=none,rome", "results_dir=results"]
    heavy, printed = imported_by(tmp_path, "launch", *arguments)
    # Without a tracker, no dashboard's client; data that come with the package need no hub's.
    assert heavy == {"torch", "transformers"}, printed
    heavy, printed = imported_by(tmp_path, "launch", *arguments)
    assert "2 runs: 0 to do, 2 done" in printed
    assert not heavy
    for program in ("analysis.table", "analysis.report"):
        heavy, printed = imported_by(tmp_path, program, "results/default")
        assert "rome" in printed or "report.html" in printed
        assert not heavy, program


@pytest.mark.parametrize("more", [[], ["-m"]])
def test_a_sweep_outside_the_results_folder_is_refused_before_anything_is_written(
    tmp_path: Path, more: list[str]
) -> None:
    done = launch(tmp_path, *more, "sweep=../escape", "tracker=none")
    assert done.returncode == 1
    told = done.stderr.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith("error: sweep='../escape': expected the name of a folder in")
    assert not list(tmp_path.iterdir())
