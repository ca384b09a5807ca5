"""A fork bomb; its children stay."""

import json
import os
import sys
import time
from pathlib import Path

n = 0
try:
    while n < 500:
        if os.fork() == 0:
            time.sleep(100)
        n += 1
except OSError:
    pass
Path(sys.argv[-1]).write_text(json.dumps({"children": n}))
