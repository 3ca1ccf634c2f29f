"""What appliances call, under /agent/v1; an appliance's token is good here and nowhere else."""
