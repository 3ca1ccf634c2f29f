"""The dashboard, rendered here and whole without JavaScript; each module's ENDPOINTS are rows of the route table."""
