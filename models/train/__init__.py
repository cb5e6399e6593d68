"""Training: frozen recipes, one resumable loop, and one module with data and loss per task."""
