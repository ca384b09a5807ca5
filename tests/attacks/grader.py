"""Run one box with this Python and print what it left: for an unprivileged user, and for a grader to be killed."""

import json
import sys
from pathlib import Path

from practicum.semester.boxed import run
from practicum.semester.bubble import BoxLimits

folder, seed, limits, packages = sys.argv[1:]
try:
    left = run(Path(folder), int(seed), BoxLimits(**json.loads(limits)), [Path(p) for p in json.loads(packages)])
except Exception as error:
    print(json.dumps({"error": str(error)}))
else:
    text = {name: getattr(left, name).decode("latin-1") for name in ("stderr", "content")}
    print(json.dumps({**vars(left), **text}))
