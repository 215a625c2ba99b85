"""What a prompt is compared with, by its case's fellows: a corrupted prompt, or their queries."""

from __future__ import annotations

from collections.abc import Iterator

from kn_sweeps.attribution.attributor import Kind
from kn_sweeps.attribution.contrast import Encode
from kn_sweeps.cases import Case, Probe, Query, edit_probe
from kn_sweeps.metrics.localisation import TYPES, target_type
from kn_sweeps.models.tokenization import Encoded, UnscorableError

_MORE = (
    "raise limit, tell cases made by hand their fellows (kn_sweeps.cases.with_fellows), or use an "
    "attribution that compares with nothing"
)


def compared_with(
    kind: Kind, case: Case, query: Query, answers: tuple[str, str], encode: Encode
) -> tuple[Encoded, ...]:
    """What an attribution compares a query of `case` with; see `Attributor`.

    Args:
        kind: The attribution.
        case: Whose fellows are looked through.
        query: About the case's subject, or a sentence of its paradigm.
        answers: What is located, and what a logit difference is taken to.
        encode: Puts them into a query.

    Raises:
        ValueError: If there is nothing.
    """
    if kind == "qrnca":
        return queries(case, answers[0], encode)
    return (corrupted(case, query, answers, encode),)


def queries(case: Case, target: str, encode: Encode) -> tuple[Encoded, ...]:
    """The queries of all cases of its source, with what is located of each.

    Raises:
        ValueError: If there are not two.
    """
    of_old = target == edit_probe(case).old
    found: list[Encoded] = []
    for one in case.fellows:
        answers = (one.old, one.new) if of_old else (one.new, one.old)
        try:
            found.append(encode(one.query, *answers))
        except (UnscorableError, ValueError):
            continue  # it cannot be asked of this model
    if len(found) < 2:
        raise ValueError(f"case {case.id}: {case.source} has no other query; {_MORE}")
    return tuple(found)


def corrupted(case: Case, query: Query, answers: tuple[str, str], encode: Encode) -> Encoded:
    """`query` with another case's subject (or trigger) in the place of its own.

    For a fact the other case has another subject and answer; for syntax, one whose trigger asks for
    the other form. It is the first behind `case` among its fellows, in a circle, so that it does
    not depend on which cases are at hand.

    Raises:
        ValueError: If there is no such case, or none with which the target is read alike.
    """
    if query.subject is None:
        raise ValueError(
            f"{query.text!r} has no subject, so that no other can be asked about; use an "
            "attribution that compares with nothing"
        )
    size = len(encode(query, *answers).target_ids)
    for other in _others(case, query, answers[0]):
        try:
            found = encode(query.about(other.query.subject_text), *answers)
        except (UnscorableError, ValueError):
            continue  # another subject may part the target otherwise
        if len(found.target_ids) == size:
            return found
    raise ValueError(
        f"case {case.id} has no fellow to be compared with: another case of {case.source} with "
        f"another subject and answer; {_MORE}"
    )


def _others(case: Case, query: Query, target: str) -> Iterator[Probe]:
    """Fellows with another subject and answer; for syntax, those of the other form first."""
    own = edit_probe(case)
    at = case.fellows.index(own) if own in case.fellows else -1
    circle = case.fellows[at + 1 :] + case.fellows[: at + 1]
    some = [
        one
        for one in circle
        if one.query.subject is not None
        and one.query.subject_text.lower() != query.subject_text.lower()
        and one.old != target
    ]
    if case.task == "fact":
        yield from some
        return
    form = target_type(target, query.subject_text)
    rival = own.new if target == own.old else own.old
    forms = set(TYPES.values())

    def rank(one: Probe) -> int:
        other = target_type(one.old, one.query.subject_text)
        if one.old == rival:
            return 0
        if form in forms and other in forms:
            return 1 if other != form else 3
        return 2

    yield from (one for one in sorted(some, key=rank) if rank(one) < 3)
