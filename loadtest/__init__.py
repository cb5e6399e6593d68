"""Benchmarks of kernels and networks, and load tests of the service.

The modules of this folder are programs to run with `python -m`, and code shared by several of them:

* networks and kernels: `network`, `kernel`, `costs`, `scheduling`; `record` writes docs/benchmarks from their results;
* the service: `load` and `capacity` (docs/benchmarks/load), `soak`, `kill` and `overhead` (docs/benchmarks/serving),
  `ray_trial` (docs/benchmarks/ray), `screenshots`; `locustfile` is for manual use with Locust;
* shared: `machine` (describes the hardware), `options`, `pictures`, `memory`; `stack`, `ray_cluster` start processes.

Their building blocks are in packages: `peers` (what is measured), `measures` (how), `records` (the output), and
`scenarios` (the load test).
"""

from models.extras import explain_missing_packages

explain_missing_packages()
