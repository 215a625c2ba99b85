"""What pyproject.toml cannot say: conf, examples and analysis lie in a wheel inside `kn_sweeps`.

At the top of site-packages the name `analysis` would be anybody's.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["kn_sweeps", "kn_sweeps.*"]),
        *(f"kn_sweeps.{name}" for name in find_packages(include=["analysis", "analysis.*"])),
        "kn_sweeps.conf",
        "kn_sweeps.examples",
        "hydra_plugins.kn_sweeps_launcher",  # without hydra_plugins itself, which is Hydra's
    ],
    package_dir={
        "kn_sweeps.analysis": "analysis",
        "kn_sweeps.conf": "conf",
        "kn_sweeps.examples": "examples",
    },
)
