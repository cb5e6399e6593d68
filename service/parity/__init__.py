"""Checks that the bit-packed network in memory still computes the same as the float reference."""
