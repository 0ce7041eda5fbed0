"""pareto-amb: the noise level above which a diffusion model should see only noisy images."""
