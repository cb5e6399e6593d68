"""From a checkpoint to a servable model: graph, packing, verification, card."""
