"""One thread for PyTorch: small networks gain nothing from more, and threads that wait for each other starve."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
