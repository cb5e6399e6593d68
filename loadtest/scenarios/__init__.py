"""What a load test is made of: what is sent, Locust that sends it, the figures, and the recorded page.

`plan` says what arrives when; `drive` runs `locustfile` in a process of its own; `summary` makes figures of what it
saw, by `schema`; `page` and `plots` write docs/benchmarks/load; `queueing` computes how long requests wait, for
loadtest.capacity.
"""
