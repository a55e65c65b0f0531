"""The data: 1,797 handwritten digits, 8 by 8 pixels, out of the scikit-learn package (which is not imported)."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np


def read_digits():
    """Images [n, 64] float32 in 0..1, and labels [n]."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise FileNotFoundError("the digits come with scikit-learn: pip install scikit-learn")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return (table[:, :64] / 16).astype(np.float32), table[:, 64].astype(np.int64)
