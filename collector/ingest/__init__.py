"""From a received message to a committed and acknowledged one."""
