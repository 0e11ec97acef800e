"""What travels between processes: framed sockets, and the messages sent over them."""
