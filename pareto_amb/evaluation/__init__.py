"""How a trained model is measured: encoders, Fréchet distance, similarity to the training images.

Nothing here imports an encoder library before an encoder is loaded, and nothing imports Ray or
MLflow.
"""
