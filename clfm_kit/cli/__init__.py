"""The command `clfm`."""
