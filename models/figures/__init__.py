"""The paper's analysis figures (Fig. 3, 5, 7, 8, 9), drawn from trained networks, and training curves."""
