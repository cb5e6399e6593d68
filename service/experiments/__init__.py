"""Experiments: which arm answers, what is kept of it, and what it says of the arms."""
