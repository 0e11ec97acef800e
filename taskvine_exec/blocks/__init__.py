"""Blocks of a Parsl provider: launched, watched, replaced, and cancelled."""
