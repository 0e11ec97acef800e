"""What the user gets back: futures, and proxies of large results."""
