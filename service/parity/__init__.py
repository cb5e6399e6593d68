"""Whether the bit-packed network in memory still computes what the float reference does."""
