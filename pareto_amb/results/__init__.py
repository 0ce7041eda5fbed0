"""What reads a finished results table: its points and their noise, frontiers, recommendations."""
