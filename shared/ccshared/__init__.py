"""What the agent and the server must agree on. It runs nothing."""
