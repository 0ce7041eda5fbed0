"""What runs on Ray: a sweep, its searcher and its scheduler, and what follows its results."""
