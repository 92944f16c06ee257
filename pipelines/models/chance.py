"""Every source of chance of a training: set by the seed, kept in a checkpoint, given back after."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Every source starts from the seed; afterwards the caller's are as they were."""
    kept = random.getstate(), np.random.get_state()
    of_mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
            if of_mps is not None:
                torch.mps.set_rng_state(of_mps)


def state(generator: torch.Generator) -> dict[str, Tensor]:
    """All sources as tensors, of the same shapes on every process."""
    _, words, gauss = random.getstate()
    of_numpy: dict[str, Any] = np.random.get_state(legacy=False)
    keys, place = of_numpy["state"]["key"], of_numpy["state"]["pos"]
    has, cached = of_numpy["has_gauss"], of_numpy["gauss"]
    found = {
        "torch": torch.get_rng_state(),
        "generator": generator.get_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor(math.nan if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), place, has], dtype=torch.int64),
        "numpy_gauss": torch.tensor(cached, dtype=torch.float64),
    }
    if generator.device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(generator.device)
    if generator.device.type == "mps":
        found["mps"] = torch.mps.get_rng_state()
    return found


def restore(found: dict[str, Tensor], generator: torch.Generator) -> None:
    torch.set_rng_state(found["torch"])
    generator.set_state(found["generator"])
    gauss = found["python_gauss"].item()
    random.setstate((3, tuple(found["python"].tolist()), None if math.isnan(gauss) else gauss))
    *keys, place, has = found["numpy"].tolist()
    words = np.array(keys, dtype=np.uint32)
    np.random.set_state(("MT19937", words, place, has, found["numpy_gauss"].item()))
    if "cuda" in found:
        torch.cuda.set_rng_state(found["cuda"], generator.device)
    if "mps" in found:
        torch.mps.set_rng_state(found["mps"])
