"""Evaluation: choices made on held-out training images, never on the data that is reported, and the models' pages."""
