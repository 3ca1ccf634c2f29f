"""The agent's API and the operators'; each module's ENDPOINTS are rows of the route table."""
