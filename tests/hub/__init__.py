"""A stand-in for the Hugging Face hub on loopback, and the repositories that it serves."""
