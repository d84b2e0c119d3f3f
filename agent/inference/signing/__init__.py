"""Who signed a package: trusted keys, signatures in the form of OpenSSF, their check in a child process."""
