"""SCORE: any prediction against any observation, hour by hour and by class."""
