"""Measurement methods, one file per quantity, for runs prepared elsewhere.

Interleaved times (`interleave`), times of modules (`modules`), throughput of concurrent sessions (`throughput`),
instruction counts (`instructions`) and the bound of a core (`roofline`). `memory_child` is the fresh process started by
loadtest.memory and `instructions`.
"""
