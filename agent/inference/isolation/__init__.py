"""Models in a process of their own: the process, what both sides write, and frames in shared memory."""
