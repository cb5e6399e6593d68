"""Bring your own weights: convert other code's checkpoints to servable models (``python -m models.import_official``).

Supported are the official Bi-Real PyTorch code (18, 34 and 50 layers) and ResNets with torchvision's state-dict names,
which timm also uses.
"""
