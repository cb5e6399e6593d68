"""Bring your own weights: checkpoints of other code to servable models (``python -m models.import_official``).

Known are the official Bi-Real PyTorch code (18, 34 and 50 layers) and ResNets with the state-dict names of torchvision,
which timm shares.
"""
