"""Time, memory and work of the engine, beside the plain formulation of the same model."""
