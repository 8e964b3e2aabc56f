"""The user side of a request: when the user phase runs, on what, together with whom, and what is kept of it."""
