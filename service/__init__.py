"""The online part of bireal-serve: it answers requests and never imports PyTorch or `models`."""
