"""The mathematics: families, penalties, dictionaries, encoders and the auto-encoder."""
