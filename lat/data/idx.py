"""IDX files, the format of MNIST: a magic number, the sizes, then unsigned bytes; gzip around it."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from lat.data.arrays import Bytes, DataError

UNSIGNED_BYTE = 8
MOST_BYTES = 1 << 32


def read_idx(path: Path) -> Bytes:
    """The uint8 array in a gzipped IDX file.

    Raises DataError where the file is no gzip, ends early, holds more than its header says, or is no IDX file of
    unsigned bytes.
    """
    try:
        with gzip.open(path) as file:
            zeros, kind, axes = struct.unpack(">HBB", file.read(4))
            if zeros != 0 or kind != UNSIGNED_BYTE or axes == 0:
                raise DataError(f"{path}: expected an IDX file of unsigned bytes, found another header. Renew it.")
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            size = math.prod(shape)
            if size > MOST_BYTES:
                raise DataError(f"{path}: its header announces {size} bytes, more than {MOST_BYTES}. Fetch it again.")
            body = file.read(size)
            more = file.read(1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path}: expected a whole gzipped IDX file, found {error}. Fetch it again.") from error
    if len(body) != size or more:
        found = f"{len(body)} bytes" if not more else "more"
        raise DataError(f"{path}: its header announces {size} bytes, found {found}. Fetch it again.")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)
