"""What forks of `tests.forked` have imported; their garbage collector passes over it."""

from kn_sweeps.garbage import importing

with importing():
    import pytest  # noqa: F401

    import kn_sweeps.run
    import kn_sweeps.sweeps.launch  # noqa: F401
