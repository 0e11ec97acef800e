"""Code that runs on nodes of either engine: the library, its function slots, and L1 tasks.

It needs only the standard library, cloudpickle and tblib (both come with parsl), so that nodes need no package of ours.
"""
