"""Clients: programs that drive an executor."""
