"""Tab completion: commands, the names of sweeps, and all that Hydra knows of a launch.

    eval "$(kn-sweeps completion bash)"      # in ~/.bashrc
    eval "$(kn-sweeps completion zsh)"       # in ~/.zshrc, after compinit
    kn-sweeps completion fish | source       # in ~/.config/fish/config.fish

The scripts ask `kn-sweeps completion query LINE`, which prints what the last word of a line up to
the cursor can become, one a line.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress

from kn_sweeps.commands import COMMANDS
from kn_sweeps.commands.console import NAME, Parser, command, say
from kn_sweeps.records.folders import RESULTS, sweeps_in

SCRIPTS = {
    # bash takes `=` for the end of a word, as long as COMP_WORDBREAKS has it.
    "bash": r"""_kn_sweeps() {
    local line="${COMP_LINE:0:COMP_POINT}" found word
    word="${line##* }"
    COMPREPLY=()
    while IFS= read -r found; do
        [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && found="${found#"${word%=*}="}"
        COMPREPLY+=("$found")
    done < <(kn-sweeps completion query "$line" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} != *[=./] ]]; then COMPREPLY[0]+=" "; fi
}
complete -o nospace -o default -F _kn_sweeps kn-sweeps""",
    "zsh": r"""_kn_sweeps() {
    local -a found open
    found=("${(@f)$(kn-sweeps completion query "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    open=(${(M)found:#*[=./]})
    found=(${found:#*[=./]})
    (( $#open )) && compadd -S '' -a open
    (( $#found )) && compadd -a found
    (( $#open + $#found )) || _files
}
compdef _kn_sweeps kn-sweeps""",
    "fish": 'complete -c kn-sweeps -a "(kn-sweeps completion query (commandline -cp) 2>/dev/null)"',
}

_TAKE_SWEEPS = ("status", "table", "report", "figures", "sync", "wandb-report")
_TAKE_OVERRIDES = ("launch", "prefetch")


def candidates(line: str) -> list[str]:
    """What the last word of a command line, which may be empty, can become."""
    words = line.split()[1:] + [""] * line.endswith(" ")
    if len(words) <= 1:
        return _beginning(words[0] if words else "", COMMANDS)
    name, *_, last = words
    if name in _TAKE_OVERRIDES:
        return _of_hydra(words[1:])
    if name == "completion":
        return _beginning(last, SCRIPTS)
    if name not in _TAKE_SWEEPS:
        return []
    more: Iterable[str] = ()
    if name == "status" and len(words) == 2:
        from kn_sweeps.commands.status import COMMANDS as more
    return _beginning(last, [*more, *sweeps_in(RESULTS)])


def _beginning(word: str, choices: Iterable[str]) -> list[str]:
    return [choice for choice in choices if choice.startswith(word)]


def _of_hydra(words: Sequence[str]) -> list[str]:
    """What Hydra's own completion says, whose interface is a line in the environment."""
    from kn_sweeps.commands import launch

    flags = [word for word in words[:-1] if word.startswith("--config-dir=")]
    for flag, value in zip(words, words[1:-1], strict=False):
        flags += [f"--config-dir={value}"] if flag in ("--config-dir", "-cd") else []
    os.environ["COMP_LINE"] = " ".join([NAME, *words])
    told = io.StringIO()
    # Half a line may be none that Hydra can read: then there is nothing to say.
    with suppress(SystemExit), redirect_stdout(told), redirect_stderr(io.StringIO()):
        launch.main([*flags, "-sc", "query=bash"])
    return told.getvalue().split()


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print a shell's script, or what a line can become."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["query"]:
        found = candidates(" ".join(given[1:]))
        say("\n".join(found), end="\n" if found else "")
        return
    parser = Parser.of("completion", __doc__)
    parser.add_argument("shell", choices=SCRIPTS)
    say(SCRIPTS[parser.parse_args(given).shell])


if __name__ == "__main__":
    sys.exit(main())
