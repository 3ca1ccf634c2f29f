"""The appliance's agent."""
