"""Many short calls at once: ``executor.map`` and ``executor.submit_many`` send them in chunks.

=========== ======================================================================================
sizes       pure: how many calls the next chunk has, from the run times of earlier ones
pieces      pure: the calls of a chunk, their outcomes, and the pieces that remain to be sent again
arguments   arguments taken from the user's iterables, a limited number of bytes at a time
sender      sends pieces as tasks, and sends again what has not run
mapping     ``map``: results in order, with few chunks at a time
many        ``submit_many``: a future for each call
dependent   calls that read results of other calls, without a DataFlowKernel
calls       the base class of the executor with these methods
=========== ======================================================================================
"""
