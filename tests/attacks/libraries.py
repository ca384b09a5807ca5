"""What honest programs do with libraries, processes and shared memory."""

import json
import math
import sys
from multiprocessing import Pool, shared_memory
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from joblib import Parallel, delayed
from sklearn.linear_model import LinearRegression

import phenomena.data  # noqa: F401

if __name__ == "__main__":
    a = np.arange(4.0).reshape(2, 2) + np.eye(2)
    with Pool(2) as pool:
        roots = sum(pool.map(math.sqrt, [1, 4, 9]))
    block = shared_memory.SharedMemory(create=True, size=1000)
    block.buf[0] = 7
    values = {
        "torch": float((torch.eye(50) @ torch.ones(50, 50)).sum()),
        "scipy": float(scipy.linalg.det(a)),
        "sklearn": round(float(LinearRegression().fit([[0], [1]], [0, 2]).coef_[0]), 6),
        "pool": roots,
        "joblib": sum(Parallel(2)(delayed(math.sqrt)(i) for i in (1, 4))),
        "shared": block.buf[0],
    }
    block.close()
    block.unlink()
    Path(sys.argv[-1]).write_text(json.dumps(values))
