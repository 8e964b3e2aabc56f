"""Which model version answers: what was announced, what is loaded and warm, and the one word that switches."""
