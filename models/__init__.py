"""Offline side of bireal-serve: networks, binarisation, training and export (PyTorch)."""

from models.extras import explain_missing_packages

explain_missing_packages()
