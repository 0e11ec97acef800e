"""The results that the user gets: futures, and proxies of large results."""
