"""HTTP in, answers out: the server, its routes, both bodies, and every bound on what a client may ask."""
