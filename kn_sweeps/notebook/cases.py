"""Cases made by hand: a fact, and a minimal pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kn_sweeps.cases import Case, Probe, ProbeKind, Query
from kn_sweeps.data.paradigms import Pair
from kn_sweeps.data.questions import PLACE, UnclearError, about
from kn_sweeps.data.questions import asked as query_of
from kn_sweeps.data.records import OTHERS


def fact(
    template: str,
    subject: str,
    *,
    old: str,
    new: str,
    rephrase: Sequence[str] = (),
    neighbour: Sequence[tuple[str, str] | tuple[str, str, str]] = (),
    seen: Sequence[str] = (),
) -> Case:
    """A fact to edit, with the questions that judge the edit.

    The answer follows a text, or stands where it has `___` (a masked LM reads on behind it). Where
    the subject stands in a text is found; where it occurs more than once, or in another form,
    write `{}` in its place.

    Args:
        template: How the fact is asked: a text with `{}` where the subject stands.
        subject: What it is about; methods edit where they read it.
        old: The answer before the edit.
        new: The answer that a perfect edit would give.
        rephrase: The same asked otherwise, in texts that no method sees.
        neighbour: What should stay as it is: (text, answer), or (text, answer, set), where sets
            are judged apart as well.
        seen: The same asked otherwise, in texts that a method may see: knowledge neurons are
            those that several prompts share.

    Raises:
        ValueError: If a text does not say where its subject stands, or something is no text.
    """
    for name, value in {"template": template, "subject": subject, "old": old, "new": new}.items():
        _check_text(name, value)
    if old.strip() == new.strip():
        raise ValueError(f"old and new are both {old!r}: there is nothing to change")
    if template.count(PLACE) != 1:
        found = "no {}" if PLACE not in template else f"{template.count(PLACE)} times {{}}"
        raise ValueError(
            f"template={template!r} has {found}: write {{}} once, where the method is to edit the "
            'subject, as in "The capital of {} is"; elsewhere write the subject out'
        )
    old, new = old.strip(), new.strip()
    query = _about(subject, "template", template)
    others = [_about(subject, name, text) for name, text in _texts("seen", seen)]
    rephrased = [_about(subject, name, text) for name, text in _texts("rephrase", rephrase)]
    spared = [
        Probe(
            query_of(text), answer, answer, "neighbour", group, rival=new if answer != new else ""
        )
        for text, answer, group in _neighbours(neighbour)
    ]
    return Case(
        id=f"{query.text}: {old} -> {new}",
        source="fact",
        task="fact",
        edit=Probe(query, old, new, "edit"),
        seen=tuple(dict.fromkeys([query, *others])),
        probes=(*(Probe(one, old, new, "rephrase") for one in rephrased), *spared),
        essence=Query(f"{subject} is a ", "", (0, len(subject))),
    )


def pair(
    good: str,
    bad: str,
    *,
    trigger: str | None = None,
    paradigm: str = "pair",
    rephrase: Sequence[tuple[str, str]] = (),
    neighbour: Sequence[tuple[str, str] | tuple[str, str, str]] = (),
    seen: Sequence[tuple[str, str]] = (),
) -> Case:
    """A minimal pair, as BLiMP has them: an edit would turn the preference round.

    The words by which the sentences differ are the answers, what stands around them is the prompt.

    Args:
        good: The grammatical sentence.
        bad: The other.
        trigger: The word that fixes which form is right; None for what the paradigm's rule finds,
            or the last word before the two differ.
        paradigm: What the pair is an example of; a name of BLiMP's brings its rule.
        rephrase: Further (good, bad) pairs, which the edit should turn round as well.
        neighbour: (good, bad) or (good, bad, set), whose preference should stay as it is.
        seen: Further (good, bad) pairs with the same good word, which a method may see.

    Raises:
        ValueError: If the sentences do not differ by an exchange of words, or something is no
            text.
    """
    made = _pair("good and bad", good, bad, paradigm)
    query = made.query if trigger is None else _with_trigger(made, trigger).query
    others = [_pair(name, *two, paradigm) for name, two in _pairs("seen", seen)]
    for other in others:
        if other.old != made.old:
            raise ValueError(
                f"seen: {other.good!r} has {other.old!r} where {made.good!r} has {made.old!r}; "
                "prompts that a method may see share the word that is located"
            )
    rephrased = [_pair(name, *two, paradigm) for name, two in _pairs("rephrase", rephrase)]
    spared = [
        _probe(_pair("neighbour", right, wrong, paradigm), "neighbour", group)
        for right, wrong, group in _neighbours(neighbour, ("good", "bad"))
    ]
    return Case(
        id=f"{query.text}: {made.old} -> {made.new}",
        source=paradigm,
        task="syntax",
        edit=Probe(query, made.old, made.new, "edit"),
        seen=tuple(dict.fromkeys([query, *(other.query for other in others)])),
        probes=(
            *(_probe(other, "rephrase") for other in rephrased),
            *spared,
            Probe(Query(""), good, bad, "sentence"),
        ),
    )


def asked(prompt: Case | Query | str) -> Query:
    """What a question is: a case's own, or a text whose answer follows, or stands at `___`.

    Raises:
        ValueError: If it is none of these, or a case that cannot be asked for a word.
    """
    if isinstance(prompt, Query):
        return prompt
    if isinstance(prompt, Case) and prompt.edit is not None:
        return prompt.edit.query
    _check_text("prompt", prompt)
    return query_of(str(prompt))


def listed(cases: Case | Iterable[Case]) -> list[Case]:
    """Some cases, or one.

    Raises:
        ValueError: If there is none, one is something else, or two have one id.
    """
    found = [cases] if isinstance(cases, Case) else list(cases)
    for one in found:
        if not isinstance(one, Case):
            raise ValueError(f"expected what kn.fact or kn.pair makes, got {one!r}")
    if not found:
        raise ValueError("no case is given: make one with kn.fact(...) or kn.pair(...)")
    twice = [one.id for n, one in enumerate(found) if one.id in {o.id for o in found[:n]}]
    if twice:
        raise ValueError(
            f"two cases are called {twice[0]!r}; give one another id with "
            "dataclasses.replace(case, id=...), or leave it out"
        )
    return found


def _about(subject: str, name: str, text: str) -> Query:
    """A text as a query, with its subject found."""
    try:
        return about(text, subject)
    except UnclearError as error:
        raise ValueError(f"{name}={error}") from None


def _with_trigger(made: Pair, trigger: str) -> Pair:
    _check_text("trigger", trigger)
    return made.with_trigger(trigger)


def _pair(name: str, good: str, bad: str, paradigm: str) -> Pair:
    for value in (good, bad):
        _check_text(name, value)
    made = Pair.of(good, bad, paradigm=paradigm)
    if not made.old or not made.new:
        why = "are equal" if good == bad else "do not differ by an exchange of words"
        raise ValueError(f"{name}: {good!r} and {bad!r} {why}")
    return made


def _probe(made: Pair, kind: ProbeKind, group: str = "") -> Probe:
    return Probe(made.query, made.old, made.new, kind, group)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name}={value!r}: expected a text")
    if not value.strip():
        raise ValueError(f"{name} is empty")


def _items(name: str, values: object) -> list[object]:
    """A list's items; a text is a list to Python, and never meant as one."""
    if isinstance(values, str):
        raise ValueError(f"{name}={values!r}: expected a list; write {name}=[{values!r}]")
    if not isinstance(values, Iterable) or isinstance(values, dict):
        raise ValueError(f"{name}={values!r}: expected a list")
    return list(values)


def _texts(name: str, values: object) -> list[tuple[str, str]]:
    """Texts, each with what it is called in a message."""
    found = []
    for n, value in enumerate(_items(name, values)):
        _check_text(f"{name}[{n}]", value)
        found.append((f"{name}[{n}]", str(value)))
    return found


def _pairs(name: str, values: object) -> list[tuple[str, tuple[str, str]]]:
    """(good, bad), each with what it is called in a message."""
    found = []
    for n, value in enumerate(_items(name, values)):
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
            raise ValueError(f"{name}[{n}]={value!r}: expected (good, bad)")
        found.append((f"{name}[{n}]", (value[0], value[1])))
    return found


def _neighbours(
    values: object, parts: tuple[str, str] = ("text", "answer")
) -> list[tuple[str, str, str]]:
    """Two texts and the name of a set, each."""
    if isinstance(values, tuple) and len(values) in (2, 3) and isinstance(values[0], str):
        raise ValueError(f"neighbour={values!r}: expected a list; write neighbour=[{values!r}]")
    found = []
    for n, value in enumerate(_items("neighbour", values)):
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) not in (2, 3):
            raise ValueError(
                f"neighbour[{n}]={value!r}: expected ({', '.join(parts)}), or with the name of a "
                f"set ({', '.join(parts)}, set)"
            )
        for one in value:
            _check_text(f"neighbour[{n}]", one)
        found.append((value[0], value[1].strip(), value[2] if len(value) == 3 else OTHERS))
    return found
