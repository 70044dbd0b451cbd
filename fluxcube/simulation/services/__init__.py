"""Local servers that speak the protocols of the services from which fluxcube fetches."""
