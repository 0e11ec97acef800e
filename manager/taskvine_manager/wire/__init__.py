"""Communication between processes: sockets, and the messages sent over them."""
