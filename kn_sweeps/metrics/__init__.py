"""Rows in, numbers out: pure functions of what a run measured.

One metric family is one module, one frozen dataclass and one `conf/metric` file of the same stem.
Its `quantities` say what each number means; docs/metrics.md tells more.
"""

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Bootstrap, Estimate
from kn_sweeps.metrics.quantities import Quantity

__all__ = ["Bootstrap", "Estimate", "Metric", "Quantity", "Results"]
