"""What runs on a node under either engine: the library, its function slots, and one-shot tasks.

Standard library, cloudpickle and tblib only (both come with parsl), so that a node needs nothing of ours installed.
"""
