"""Image sets and their subsets: from a folder, a zip or a named set to one uint8 tensor.

Everything a user hands in is checked here, so that the rest of the program works on a tensor of one
known shape.
"""

from pareto_amb.data.image_set import ImageSet, load_images
from pareto_amb.data.subsets import Split, TrainingSet, split, take_training_set

__all__ = ["ImageSet", "Split", "TrainingSet", "load_images", "split", "take_training_set"]
