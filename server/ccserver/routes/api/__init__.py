"""What operators and their scripts call, under /api/v1; a session or an API key is good here and never under /agent."""
