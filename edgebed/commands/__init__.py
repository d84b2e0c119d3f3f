"""The subcommands: one file each, which defines `command`."""
