"""Which aversion to risk is best for eight trees?"""

import json
import sys
from pathlib import Path

import midterm  # type: ignore[import-not-found]

seed, out = (sys.argv[sys.argv.index(name) + 1] for name in ("--seed", "--out"))
mild, strong = (midterm.experiment(int(seed), risk) for risk in (2.0, 20.0))
Path(out).write_text(json.dumps({"loss_2": mild["loss_iso"], "loss_20": strong["loss_iso"]}))
