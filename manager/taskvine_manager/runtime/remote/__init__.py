"""Remote files: fetched into the sandbox of a task, and written from there. Slots and L1 tasks run this code.

Everything beyond the standard library is imported when it is first used, because most tasks read no remote files.
"""
