"""Eight processes that have left their parent and its session, 60 MB each."""

import os
import time

for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        held = bytearray(60_000_000)
        held[::1000] = b"1" * 60_000
        time.sleep(100)
time.sleep(100)
