"""The agent's and the operators' API, a module per noun; each module's ENDPOINTS are rows of the route table."""
