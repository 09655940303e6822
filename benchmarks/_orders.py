"""The peer's end of `_peers`: a process of its own that sets up, waits for orders, and runs one round for each."""

import socket
from collections.abc import Callable
from pathlib import Path

__all__ = ["ROUND", "TELL", "Orders"]

ROUND, TELL = b"r", b"t"
"""The orders: run a round, and tell a number."""
_PATIENCE_SECONDS = 600


class Orders:
    """Tells whoever measures that this process is ready, by listening; then is told when to run a round."""

    def __init__(self, path: str, tell: Callable[[], float]) -> None:
        """Wait for the one who measures. Set everything up before: from here on time counts.

        Args:
            path: Where to listen; nothing is there before.
            tell: Gives the number that is asked for now and then; of contestants who train the same, the sum of the absolute
                values of the averaged parameters, on which they agree.
        """
        self._tell = tell
        server = socket.socket(socket.AF_UNIX)
        hidden = f"{path}.new"
        server.bind(hidden)
        server.listen(1)
        server.settimeout(_PATIENCE_SECONDS)  # who was killed before measuring leaves nobody behind for ever
        Path(hidden).rename(path)  # whoever finds it can connect
        self._connection = server.accept()[0]

    def wait(self) -> bool:
        """Wait for the order to run a round; nothing spins meanwhile.

        Returns:
            Whether there is one; otherwise nobody measures any more.
        """
        while (order := self._connection.recv(1)) == TELL:
            self._connection.sendall(f"{self._tell()!r}\n".encode())
        return order == ROUND

    def done(self) -> None:
        """Tell that the round is over."""
        self._connection.sendall(b"done\n")
