"""The parts of a load test: the plans, Locust to carry them out, the results, and the generated page.

`plan` defines what is sent when, `drive` runs `locustfile` in a separate process, `summary` computes the results
(`schema`), `page` and `plots` write docs/benchmarks/load, and `queueing` models waiting times for loadtest.capacity.
"""
