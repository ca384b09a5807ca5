"""Eight processes with 200 sockets each, whose buffers belong to no process."""

import os
import socket
import time

for _ in range(8):
    if os.fork() == 0:
        pairs = [socket.socketpair() for _ in range(100)]
        time.sleep(100)
time.sleep(100)
