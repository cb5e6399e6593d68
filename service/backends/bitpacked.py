"""The variant `binary`: runs the packed graph from the model's file with the bit-packed operator."""

from service import xnor_op
from service.backends.base import Description, LoadedModel
from service.backends.batches import images_a_run, largest_map_bytes
from service.backends.session import OrtModel, ResidentGrowth, check_variant, open_session
from service.card import Card


class BitPackedBackend:
    """Runs packed graphs with the custom operator of service/xnor_op."""

    def load(self, card: Card, variant: str, *, intra_op_threads: int) -> LoadedModel:
        """See `Backend.load`."""
        check_variant(card, variant)
        library = xnor_op.library_path()
        kernel = xnor_op.kernel_name()
        with ResidentGrowth() as growth:
            session = open_session(
                card.path, name=f"{card.name} ({variant})", intra_op_threads=intra_op_threads, op_library=library
            )
        description: Description = {
            "variant": variant,
            "kernel": kernel,
            "binary_weight_bytes": card.weights.binary_bytes,
            "real_weight_bytes": card.weights.real_bytes,
            "artefact_bytes": card.path.stat().st_size,
            "session_bytes": growth.bytes,
        }
        most = images_a_run(largest_map_bytes(card))
        return OrtModel(card, session, description, images_a_run=most)
