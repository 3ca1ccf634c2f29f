"""Central Command: the server."""
