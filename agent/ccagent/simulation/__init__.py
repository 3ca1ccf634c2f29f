"""Many appliances in one process, with the agent's own store, uploader, check-ins and client: for the herd and load."""
