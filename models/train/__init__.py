"""Training: frozen recipes, one resumable loop, one file of loss and data for each task."""
