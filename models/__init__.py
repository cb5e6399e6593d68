"""Offline side of bireal-serve: networks, binarisation, training, export (PyTorch)."""
