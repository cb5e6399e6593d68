"""Experiments: they choose the arm that answers, store observations and feedback, and compare the arms."""
