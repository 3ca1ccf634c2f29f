"""What agents of each release sent, and what they were answered: played to the server of today."""
