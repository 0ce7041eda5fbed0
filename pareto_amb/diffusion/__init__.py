"""Algorithm 1: noise, loss, networks, sampler, trainer."""
