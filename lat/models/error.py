"""What is wrong with the network that was asked for."""


class ModelError(ValueError):
    """A network that is not known or cannot take its images; the message names what was asked for and the mend."""
