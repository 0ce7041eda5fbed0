"""What `pareto-amb explain` measures: `subject` finds a run's images and models, `measure` looks into them.

What every key of a sweep file means is another matter: `explain`.
"""
