"""Benchmarks of kernels and networks, and load tests of the service: each a module to run with `python -m`."""

from models.extras import explain_missing_packages

explain_missing_packages()
