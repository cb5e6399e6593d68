"""How it is measured: one file a quantity, each of runs that somebody else opens.

Time by turns (`interleave`), of modules (`modules`), of sessions at once (`throughput`); instructions (`instructions`);
the bound of a core (`roofline`). `memory_child` is the fresh process that loadtest.memory and `instructions` look at.
"""
