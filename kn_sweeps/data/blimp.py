"""BLiMP (Warstadt et al. 2020): minimal pairs of a grammatical and an ungrammatical sentence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from kn_sweeps.cases import OTHER_PHENOMENON, SAME_PARADIGM, Case, LMKind, Probe, ProbeKind, Query
from kn_sweeps.data.base import Loaded, check_counts, check_share, left_out
from kn_sweeps.data.paradigms import BlimpFiles, Pair, available_paradigms, read_paradigm
from kn_sweeps.data.sources import (
    Source,
    check_names,
)
from kn_sweeps.seeding import shuffler

_OTHER_PARADIGMS = 4


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """What cases are made of minimal pairs.

    Attributes:
        seen_share: Share of a paradigm's pairs a method may see; the others judge the edit.
        max_seen: Most prompts with the same target form a method sees.
        rephrasings: Most held-out sentences with the same trigger and forms a case.
        neighbours: Most neighbours of each set a case.
        elsewhere: Most held-out pairs of every chosen paradigm, the case's own too, whose answers
            are followed under its edit.
    """

    seen_share: float = 0.5
    max_seen: int = 10
    rephrasings: int = 4
    neighbours: int = 4
    elsewhere: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        check_share(self.seen_share)
        check_counts(
            max_seen=self.max_seen,
            rephrasings=self.rephrasings,
            neighbours=self.neighbours,
            elsewhere=self.elsewhere,
        )


@dataclass(frozen=True, kw_only=True)
class Blimp(PairOptions, BlimpFiles):
    """Minimal pairs with same-form prompts, rephrasings and neighbours.

    Attributes:
        paradigms: Which; None for all the source has (and, for an edit, this LM can be asked).
    """

    paradigms: tuple[str, ...] | None = None

    def load(self, kind: LMKind, *, seed: int, limit: int | None, editable: bool) -> Loaded:
        """Make the cases; see `Dataset.load`."""
        source = self.resolved()
        known = available_paradigms(source)
        wanted = list(known) if self.paradigms is None else list(self.paradigms)
        check_names(wanted, known, "paradigm")
        paradigms = {name: read_paradigm(source, name) for name in wanted}
        pairs = {name: paradigm.pairs for name, paradigm in paradigms.items()}
        invalid = [name for name in wanted if not _valid(pairs[name], kind)]
        if editable and invalid and self.paradigms is not None:
            raise ValueError(_refusal(invalid, kind, source, known))
        chosen = [name for name in wanted if name not in invalid or not editable]
        others = self._others(source, known, pairs, seed)
        maker = PairCases(self, kind, seed, {**others, **pairs}, chosen)
        cases: list[Case] = []
        reports = []
        for name in wanted:
            made, reasons = (
                maker.cases(name, limit, editable) if name in chosen else ([], Counter())
            )
            if name not in chosen:
                reasons[f"no {kind} LM can be edited on it"] = len(pairs[name])
            cases += made
            reasons += paradigms[name].left_out
            reports.append(left_out(name, len(made), reasons, paradigms[name].notes))
        return Loaded(tuple(cases), tuple(reports), source.name)

    def _others(
        self, source: Source, known: tuple[str, ...], pairs: dict[str, list[Pair]], seed: int
    ) -> dict[str, list[Pair]]:
        """Paradigms read only for neighbours, where those chosen are all of one phenomenon."""
        if len({group[0].term for group in pairs.values()}) > 1:
            return {}
        rest = [name for name in known if name not in pairs]
        shuffler(seed, "other paradigms").shuffle(rest)
        (term,) = {group[0].term for group in pairs.values()}
        found: dict[str, list[Pair]] = {}
        for name in rest:
            if len(found) == _OTHER_PARADIGMS:
                break
            group = read_paradigm(source, name).pairs
            if group[0].term != term and group[0].one_prefix:
                found[name] = group
        return found


class PairCases:
    """Makes the cases of paradigms that serve as one another's neighbours."""

    def __init__(
        self,
        options: PairOptions,
        kind: LMKind,
        seed: int,
        pairs: dict[str, list[Pair]],
        chosen: Sequence[str],
    ) -> None:
        self._options = options
        self._kind = kind
        self._seed = seed
        self._pairs = pairs
        self._chosen = chosen
        self._seen: dict[str, list[Pair]] = {}
        self._held_out: dict[str, list[Pair]] = {}
        self._far: dict[str, list[Pair]] = {}
        for name, group in pairs.items():
            usable = [pair for pair in group if pair.why_not(kind) is None]
            shuffler(seed, "pairs", name).shuffle(usable)
            drawn = [pair for pair in usable if not pair.role]
            cut = max(1, round(len(drawn) * options.seen_share))
            self._seen[name] = [p for p in usable if p.role == "edit"] + drawn[:cut]
            self._held_out[name] = [p for p in usable if p.role == "judge"] + drawn[cut:]
        self._same_form = _grouped(self._seen, lambda p: (p.paradigm, p.old))
        self._same_change = _grouped(
            self._held_out, lambda p: (p.paradigm, p.trigger, p.old, p.new)
        )

    def cases(
        self, name: str, limit: int | None, editable: bool
    ) -> tuple[list[Case], Counter[str]]:
        """The first `limit` pairs of a paradigm in the seed's order, and what was left out."""
        usable = list(self._seen[name])
        reasons = Counter(why for p in self._pairs[name] if (why := p.why_not(self._kind)))
        reasons["held out to judge edits"] = len(self._held_out[name])
        if not editable:
            # Nothing is edited, so nothing has to be held out; the pairs an edit would be made on
            # come first, so that a control shares its method's cases.
            others = [pair for pair in self._pairs[name] if pair not in set(usable)]
            shuffler(self._seed, "scored pairs", name).shuffle(others)
            usable += others
            reasons.clear()
        if limit is not None:
            reasons["beyond limit"] = max(0, len(usable) - limit)
            usable = usable[:limit]
        return [self._case(pair) for pair in usable], reasons

    def _case(self, pair: Pair) -> Case:
        name = f"{pair.paradigm}/{pair.index:04d}"
        sentence = Probe(Query(""), pair.good, pair.bad, "sentence")
        if pair.why_not(self._kind) is not None:
            return Case(name, pair.paradigm, "syntax", None, probes=(sentence,))
        seen = self._same_form.get((pair.paradigm, pair.old), [])[: self._options.max_seen]
        return Case(
            id=name,
            source=pair.paradigm,
            task="syntax",
            edit=_probe(pair, "edit"),
            seen=tuple(other.query for other in seen),
            probes=(
                *self._rephrasings(pair, seen),
                *self._neighbours(name, pair),
                *self._elsewhere(name, pair, seen),
                sentence,
            ),
        )

    def _rephrasings(self, pair: Pair, seen: list[Pair]) -> list[Probe]:
        same = self._same_change.get((pair.paradigm, pair.trigger, pair.old, pair.new), [])
        # Two sentences may differ only where a causal LM does not read: one prompt, not two.
        read = {self._read(other) for other in (pair, *seen)}
        others = [other for other in same if self._read(other) not in read]
        return [_probe(other, "rephrase") for other in others[: self._options.rephrasings]]

    def _neighbours(self, name: str, pair: Pair) -> list[Probe]:
        """Held-out pairs the edit should not touch: other words, and other phenomena."""
        draw = shuffler(self._seed, "neighbours", name)
        own = [
            other
            for other in self._held_out[pair.paradigm]
            if other.trigger != pair.trigger and not {other.old, other.new} & {pair.old, pair.new}
        ]
        probes = []
        far = self._of_other_terms(pair.term)
        for pool, label in ((own, SAME_PARADIGM), (far, OTHER_PHENOMENON)):
            drawn = draw.sample(pool, min(self._options.neighbours, len(pool)))
            probes += [_probe(other, "neighbour", label) for other in drawn]
        return probes

    def _elsewhere(self, name: str, pair: Pair, seen: list[Pair]) -> list[Probe]:
        """Held-out pairs of every chosen paradigm, none that reads as what may be seen."""
        draw = shuffler(self._seed, "elsewhere", name)
        read = {self._read(other) for other in (pair, *seen)}
        probes = []
        for paradigm in self._chosen:
            pool = [other for other in self._held_out[paradigm] if self._read(other) not in read]
            drawn = draw.sample(pool, min(self._options.elsewhere, len(pool)))
            probes += [_probe(other, "elsewhere", paradigm) for other in drawn]
        return probes

    def _read(self, pair: Pair) -> tuple[str, str]:
        """What the LM reads of a pair's sentence."""
        return (pair.prefix, pair.suffix if self._kind == "masked" else "")

    def _of_other_terms(self, term: str) -> list[Pair]:
        if term not in self._far:
            held_out = [pair for group in self._held_out.values() for pair in group]
            self._far[term] = [pair for pair in held_out if pair.term != term]
        return self._far[term]


def _probe(pair: Pair, kind: ProbeKind, group: str = "") -> Probe:
    return Probe(pair.query, pair.old, pair.new, kind, group)


def _valid(pairs: list[Pair], kind: LMKind) -> bool:
    return any(pair.why_not(kind) is None for pair in pairs)


def _refusal(invalid: list[str], kind: LMKind, source: Source, known: tuple[str, ...]) -> str:
    valid = [name for name in known if _valid(read_paradigm(source, name).pairs, kind)]
    reason = read_paradigm(source, invalid[0]).pairs[0].why_not(kind)
    return (
        f"no {kind} LM can be edited on {', '.join(invalid)}: {reason}. "
        f"Choose from {', '.join(valid)}; or score whole sentences with method=none"
    )


def _grouped(
    pools: dict[str, list[Pair]], key: Callable[[Pair], Hashable]
) -> dict[Hashable, list[Pair]]:
    groups: dict[Hashable, list[Pair]] = defaultdict(list)
    for pool in pools.values():
        for pair in pool:
            groups[key(pair)].append(pair)
    return groups
