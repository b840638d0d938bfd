"""Images in IDX files, for the peers in PyTorch. They put this folder on sys.path."""

import gzip
import os
import struct

import numpy as np
import torch


def idx(path):
    with gzip.open(f"{path}.gz", "rb") if os.path.exists(f"{path}.gz") else open(path, "rb") as file:
        data = file.read()
    dims = data[3]
    shape = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims])
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dims).reshape(shape)


def images(folder, part):
    """Pixels float32 [images, 784] from 0 to 1, and classes int64."""
    pixels = idx(f"{folder}/{part}-images-idx3-ubyte").reshape(-1, 784).astype(np.float32) / 255
    return torch.from_numpy(pixels), torch.from_numpy(idx(f"{folder}/{part}-labels-idx1-ubyte").astype(np.int64))
