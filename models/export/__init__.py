"""Export of a checkpoint to a servable model: graph, packed weights, verification, card."""
