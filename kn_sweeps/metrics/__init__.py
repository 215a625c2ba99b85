"""Rows in, numbers out: pure functions of what a run measured.

One metric family is one module, one frozen dataclass and one `conf/metric` file of the same stem.
docs/metrics.md says what each number means.
"""

from kn_sweeps.metrics.base import Estimate, Metric, Results

__all__ = ["Estimate", "Metric", "Results"]
