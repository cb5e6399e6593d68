"""Benchmarks of kernels and networks, and load tests of the service.

A module of this folder is a program to run with `python -m`, or what several of them share:

* networks and kernels: `network`, `kernel`, `costs`, `scheduling`; `record` writes docs/benchmarks from what they say;
* the service: `load` and `capacity` (docs/benchmarks/load), `soak`, `kill` and `overhead` (docs/benchmarks/serving),
  `ray_trial` (docs/benchmarks/ray), `screenshots`; `locustfile` is for Locust by hand;
* shared: `machine` (where it was measured), `options`, `pictures`, `memory`; `stack` and `ray_cluster` start processes.

What they are made of is in packages: `peers` (what is measured), `measures` (how), `records` (what is written), and
`scenarios` (the load test).
"""

from models.extras import explain_missing_packages

explain_missing_packages()
