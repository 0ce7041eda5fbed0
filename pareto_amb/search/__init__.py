"""The multi-objective search: samplers, frontiers, recommendations."""
