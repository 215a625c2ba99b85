"""How commands end, and what `kn-sweeps` alone does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kn_sweeps import __main__ as door
from kn_sweeps.commands import COMMANDS, OF_ANALYSIS, cache, completion, prefetch
from kn_sweeps.commands.console import Parser, command
from kn_sweeps.progress.interruption import Interrupted
from kn_sweeps.records.places import CHECKOUT


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest"])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("no moon; name a planet"), 1, "error: no moon; name a planet\n"),
        (FileNotFoundError(2, "No such file", "moon"), 1, "error: No such file (moon)\n"),
        (KeyboardInterrupt(), 130, "gone on with later\n"),
        (Interrupted("cancelled"), 143, "gone on with later\n"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @command(interrupted="gone on with later")
    def main(_: object) -> None:
        raise error

    assert main([]) == code
    assert capsys.readouterr() == ("", said)


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    @command()
    def main(_: object) -> None:
        raise KeyError("moon")

    with pytest.raises(KeyError):
        main([])


def test_a_wrong_command_line_is_one_line_and_ends_with_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        Parser.of("orbit", "Go round.").parse_args(["--fast"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: unrecognized arguments: --fast; see kn-sweeps orbit --help\n"


def test_help_names_a_command_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for first in ("kn-sweeps orbit", "/x/analysis/orbit.py"):
        monkeypatch.setattr(sys, "argv", [first])
        told = Parser.of("orbit", "    kn-sweeps orbit MOON", "python -m analysis.orbit")
        name = first if first.startswith("kn-") else "python -m analysis.orbit"
        assert f"usage: {name} [-h]\n\n    {name} MOON" in told.format_help()


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    script = "from kn_sweeps.commands.console import command, say\n@command()\ndef main(_):\n"
    script += "    while True: say('moon')\nimport sys; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"moon\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_every_command_is_listed_and_has_its_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main(["--help"]) == 0
    listed = capsys.readouterr().out
    folder = Path(completion.__file__).parent
    for name in COMMANDS:
        module = f"{name.replace('-', '_')}.py"
        own = CHECKOUT / "analysis" if name in OF_ANALYSIS else folder
        assert (own / module).is_file()
        assert f"  {name} " in listed


@pytest.mark.parametrize("name", ["status", "sync", "export", "cache", "completion", "table"])
def test_every_command_tells_how_it_is_used(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        door.main([name, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: kn-sweeps {name}")
    assert f"    kn-sweeps {name} " in told


def test_a_mistyped_command_is_told_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main(["tabel"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown command 'tabel' (did you mean table?")


def test_prefetch_takes_the_overrides_of_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(prefetch.launch, "main", lambda words: given.extend(words) or 0)
    assert prefetch.main(["method=rome"]) == 0
    assert given == ["--multirun", "hydra/launcher=prefetch", "method=rome"]


def test_a_cache_is_cleared_by_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path))
    for name in ("hashes", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one").write_bytes(b"1" * 2**20)
    with pytest.raises(SystemExit):
        cache.main(["clear"])
    assert cache.main(["clear", "hashes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines if line.startswith(("hashes", "models"))] == [
        ["hashes", "0", "files", "0.0"],
        ["models", "1", "files", "1.0"],
    ]


def test_completion_knows_commands_sweeps_and_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "birds" / "launches").mkdir(parents=True)
    (tmp_path / "own" / "method").mkdir(parents=True)
    (tmp_path / "own" / "method" / "rowing.yaml").write_text("{}\n")
    for line, found in (
        ("kn-sweeps ", list(COMMANDS)),
        ("kn-sweeps ta", ["table"]),
        ("kn-sweeps table bi", ["birds"]),
        ("kn-sweeps status re", ["retry"]),
        ("kn-sweeps completion z", ["zsh"]),
        ("kn-sweeps launch -m seed=1 method=rom", ["method=rome"]),
        ("kn-sweeps launch --config-dir own method=ro", ["method=rome", "method=rowing"]),
        ("kn-sweeps prefetch method=rome method.clamp", ["method.clamp_norm="]),
        ("kn-sweeps launch --conf", []),
    ):
        assert completion.candidates(line) == found, line


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_a_script_is_printed_for(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main([shell]) == 0
    assert "kn-sweeps completion query" in capsys.readouterr().out


def test_bash_completes_behind_an_equals_sign_and_a_space_ends_what_is_whole(
    tmp_path: Path,
) -> None:
    script = tmp_path / "kn-sweeps"
    script.write_text("#!/bin/sh\nprintf 'method=rome\\n'\n")
    script.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f"{completion.SCRIPTS['bash']}; {_ASKED}"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "LINE": "kn-sweeps launch method=ro"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "<rome >"


_ASKED = 'COMP_LINE=$LINE COMP_POINT=${#LINE}; _kn_sweeps; printf "<%s>" "${COMPREPLY[@]}"'
