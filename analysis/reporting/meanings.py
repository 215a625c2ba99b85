"""What each metric is, in a line; docs/metrics.md has the whole of it."""

from __future__ import annotations

MEANINGS = {
    "reliability": "the edit does what it is for on its own prompt",
    "known": "share of edit prompts whose old answer the unedited model gives",
    "generality": "the same on phrasings no method has seen, every edit one vote",
    "locality": "share of unrelated prompts whose answer stays; 1 for an edit that does nothing",
    "locality_kl": "mean KL(before || after) of unrelated prompts, first answer token, in nats",
    "symmetry": "the fact holds read backwards",
    "symmetry_stale": "backwards, the new object still answers its former subject",
    "symmetry_residue": "backwards, the old object still answers the subject",
    "synonymy": "the answer's synonym follows",
    "flip_rate": "share of pairs whose preferred form changes; read with effect_size",
    "effect_size": "change of log P(good) - log P(bad), in nats; read with flip_rate",
    "pair_accuracy": "share of pairs whose good sentence is the more probable, unedited model",
    "pair_accuracy_after": "share of pairs whose good sentence is the more probable, edited model",
    "probability_change": "mean relative change of the old answer's probability",
    "log_probability_change": "mean change of the old answer's log-probability, in nats",
    "forgetting": "success right after an edit minus success after all edits",
    "neurons": "mean number of located neurons",
    "tau": "mean share of prompts a located neuron had to be in",
    "r_squared": "how far all prompts of a source point at the same neurons",
    "completeness_residual": "largest error of summed attributions, in probability",
    "total_effect": "probability of the answer that corrupting the subject takes",
    "cooccurrence_attribution": "rank correlation of co-occurrence and attribution",
    "cooccurrence_loss": "rank correlation of co-occurrence and the nats the edit takes",
    "uncertified": "share of attributed layers above the tolerance",
}
ENDS = {
    "_p": "its p-value, by permutation",
    "_gated": "only where the model knew the probe and the edit took",
    "_after_all": "once all edits of the sequence are made",
}


def meaning(metric: str) -> str:
    """A line about a metric; empty for one this page does not know."""
    for end, note in ENDS.items():
        if metric.endswith(end) and (whole := meaning(metric.removesuffix(end))):
            return f"{whole}; {note}"
    if metric in MEANINGS:
        return MEANINGS[metric]
    if metric.startswith("indirect_effect_"):
        _, _, component, role = metric.split("_")
        place = "the subject's last token" if role == "subject" else "where the answer is read"
        return f"probability that restoring {component} at {place} brings back, at its best layer"
    neighbours = metric.removeprefix("locality_")
    return f"locality on the neighbours {neighbours}" if neighbours != metric else ""
