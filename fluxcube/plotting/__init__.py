"""Pictures of maps, towers and scores."""
