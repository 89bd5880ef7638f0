"""Ports of loopback for servers that are told theirs, and may be away for a while."""

import socket


def held_port() -> tuple[int, socket.socket]:
    """A port, and what keeps the kernel from giving it to anyone who asks for any.

    Whoever names it can listen on it nevertheless, for both allow the address to be used again and the holder does not
    listen.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder.getsockname()[1], holder
