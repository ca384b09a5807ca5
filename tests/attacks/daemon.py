"""A daemon called `sleep` with what mark.txt says; the program itself ends, or sleeps beside a file sleep.txt."""

import os
import sys
import time
from pathlib import Path

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execlp("sleep", "sleep", Path("mark.txt").read_text())
    os._exit(0)
time.sleep(100 if Path("sleep.txt").exists() else 0.3)
Path(sys.argv[-1]).write_text('{"x": 1}')
