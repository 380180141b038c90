"""Tells the service manager how this process is: systemd's notification protocol, which is one datagram.

Both the agent and the collector are services of `Type=notify` with a watchdog; this is all they need of it. See
sd_notify(3).
"""

import os
import socket
from collections.abc import Mapping

READY = "READY=1"
ALIVE = "WATCHDOG=1"
STOPPING = "STOPPING=1"


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send one state. False where no service manager listens, or it cannot be reached: that stops no one's work."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    # A leading '@' stands for the zero byte of an abstract socket.
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), target)
    except OSError:
        return False
    return True
