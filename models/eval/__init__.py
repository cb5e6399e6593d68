"""Choices made on the held-out part of the training data (never on the data that is reported on)."""
