"""Home of LERF; it registers no method yet."""
